"""Which posteriors and moments exist: ranks against the growth of dense determinants, answers against quadrature."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from scipy import linalg, stats

from hbsk import PartialPoolingRegressor, from_json, to_json
from hbsk._engine.fit import marginal_model
from hbsk._engine.priors import EnginePriors
from hbsk._engine.propriety import ImproperPosteriorError, posterior_tails, rows_degrees, tail_degrees
from hbsk._engine.sd_prior import SdPrior
from tests.dense import Problem, group_columns

# All sds so heavy that every set of them is looked at, none improper.
HEAVY = SdPrior("HalfStudentT", {"nu": 0.01, "sigma": 1.0})


def small_problem(rng):
    """Few rows in few groups; varying columns that are zero in some groups, or columns that repeat each other."""
    n, n_groups, q = int(rng.integers(4, 12)), int(rng.integers(1, 5)), int(rng.integers(1, 4))
    codes = rng.permutation(np.append(np.arange(n_groups), rng.integers(0, n_groups, n - n_groups)))
    X = np.column_stack([np.ones(n), rng.normal(size=(n, 2))])
    Z = np.column_stack([np.ones(n), X[:, 1], rng.normal(size=n)])[:, rng.permutation(3)[:q]]
    Z = Z * (rng.random((n_groups, q)) < 0.6)[codes]
    if rng.random() < 0.4:
        X[:, 1] = Z[:, 0]
    has_intercept = bool(rng.random() < 0.7)
    X = X if has_intercept else X[:, 1:]
    return Problem(X, Z, codes, n_groups, rng.normal(size=n), has_intercept=has_intercept)


def covariance(problem, X_normal, sigma, tau):
    Z = group_columns(problem)
    V = sigma**2 * np.eye(problem.n_rows) + X_normal @ X_normal.T
    return V + Z @ np.kron(np.eye(problem.n_groups), np.diag(tau**2)) @ Z.T


def dense_rank(problem, flat, growing, has_sigma):
    """How fast |A' V A|^(-1/2) falls, A the contrasts without X_F, between sds of 1e3 and 1e5."""
    X = problem.centred()
    contrasts = linalg.null_space(X[:, flat].T) if flat.any() else np.eye(problem.n_rows)
    values = []
    for size in (1e3, 1e5):
        tau = np.where(np.isin(np.arange(problem.Z.shape[1]), growing), size, 1.0)
        V = covariance(problem, X[:, ~flat], size if has_sigma else 1.0, tau)
        values.append(0.5 * np.linalg.slogdet(contrasts.T @ V @ contrasts)[1])
    return (values[1] - values[0]) / np.log(100.0)


def dense_variance(problem, flat, growing, has_sigma, x, z, code, size):
    """Posterior variance of x'b + z'u given the sds, by universal kriging."""
    X, q = problem.centred(), problem.Z.shape[1]
    tau = np.where(np.isin(np.arange(q), growing), size, 1.0)
    V = covariance(problem, X[:, ~flat], size if has_sigma else 1.0, tau)
    H = np.column_stack([X[:, ~flat], group_columns(problem), np.zeros((len(X), q))])
    prior = np.concatenate([np.ones(int(np.sum(~flat))), np.tile(tau**2, problem.n_groups + 1)])
    w = np.zeros(H.shape[1])
    w[: int(np.sum(~flat))] = x[~flat]
    at = int(np.sum(~flat)) + code * q
    w[at : at + q] = z
    gain = np.linalg.solve(V, H * prior @ w)
    variance = w @ (prior * w) - (H * prior @ w) @ gain
    if flat.any():
        d = x[flat] - X[:, flat].T @ gain
        information = X[:, flat].T @ np.linalg.solve(V, X[:, flat])
        variance += d @ np.linalg.solve(information, d)
    return variance


def engine_model(problem, flat, residual=HEAVY):
    q = problem.Z.shape[1]
    sd = np.where(flat, np.inf, 1.0)
    blocks = tuple((k,) for k in range(q))
    priors = EnginePriors(np.zeros(len(flat)), sd, residual, [HEAVY] * q, blocks, (1.0,) * q)
    return marginal_model(problem.collect(), priors)


def problems_of_full_rank(first):
    """Yield seed, small problem and flags of flat coefficients, where the flat ones are identified."""
    for seed in range(first, first + 20):
        rng = np.random.default_rng(seed)
        problem = small_problem(rng)
        flat = rng.random(problem.X.shape[1]) < 0.6
        if np.linalg.matrix_rank(problem.centred()[:, flat]) < flat.sum() or np.any(
            np.ptp(problem.X[:, 1:], axis=0) == 0
        ):
            continue
        yield seed, problem, flat


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_degrees_are_those_of_dense_determinants(first):
    n_sets = 0
    for _, problem, flat in problems_of_full_rank(first):
        q = problem.Z.shape[1]
        model, _ = engine_model(problem, flat)
        found = {(s.columns, s.has_sigma): s.degrees for s in posterior_tails(model).sets}
        for size in range(q + 1):
            for columns in combinations(range(q), size):
                for has_sigma in (False, True):
                    rank = dense_rank(problem, flat, columns, has_sigma)
                    degrees = 0.01 * (size + has_sigma) + round(rank)
                    assert rank == pytest.approx(round(rank), abs=0.05)
                    if columns or has_sigma:
                        # above two, where all reported moments exist, a set is not listed
                        wanted = degrees if degrees <= 2 else None
                        assert found.get((columns, has_sigma)) == (wanted if wanted is None else pytest.approx(wanted))
                        n_sets += wanted is not None
    assert n_sets > 20


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_rows_without_a_variance_are_those_whose_conditional_variance_grows(first):
    grown = []
    for seed, problem, flat in problems_of_full_rank(first):
        p, q = problem.X.shape[1], problem.Z.shape[1]
        model, scaling = engine_model(problem, flat)
        tails = posterior_tails(model)
        # rows of the data, single coefficients, single effects of known groups and of a new one
        X = np.concatenate([problem.X, np.eye(p), np.zeros((2 * q, p))])
        Z = np.concatenate([problem.Z, np.zeros((p, q)), np.eye(q), np.eye(q)])
        codes = np.concatenate(
            [problem.codes, np.zeros(p, dtype=int), np.zeros(q, dtype=int), np.full(q, problem.n_groups)]
        )
        centre = np.append(0.0, problem.X[:, 1:].mean(axis=0)) if problem.has_intercept else np.zeros(p)
        found = rows_degrees(tails, model.sums, scaling.common(X, problem.has_intercept), scaling.varying(Z), codes)
        for i in range(len(X)):
            x = X[i] - centre * (X[i, 0] if problem.has_intercept else 0.0)
            wanted = np.inf
            for each in tails.sets:
                small, large = (
                    dense_variance(problem, flat, each.columns, each.has_sigma, x, Z[i], codes[i], size)
                    for size in (1e2, 1e4)
                )
                if large > 30 * max(small, 1e-3):
                    wanted = min(wanted, each.degrees)
            assert found[i] == wanted, (seed, i)
            grown.append(np.isfinite(wanted))
    assert 0.05 < np.mean(grown) < 0.95


def test_tails_of_priors():
    x = np.array([1e6, 1e8])
    for family, params in [
        ("HalfCauchy", {"beta": 2.0}),
        ("HalfStudentT", {"nu": 1.7, "sigma": 3.0}),
        ("InverseGamma", {"alpha": 0.6, "beta": 2.0}),
        ("HalfFlat", {}),
    ]:
        prior = SdPrior(family, params)
        slope = np.diff(prior.log_density(x))[0] / np.log(100.0)
        assert tail_degrees(prior) == pytest.approx(-slope - 1.0, abs=1e-5)
    for family, params in [("HalfNormal", {"sigma": 2.0}), ("Gamma", {"alpha": 0.1, "beta": 0.1})]:
        assert tail_degrees(SdPrior(family, params)) == np.inf
    assert tail_degrees(2.0) == np.inf


# What users see


HALF_FLAT = ("Normal", {"mu": 0, "sigma": ("HalfFlat", {})})
HALF_CAUCHY = ("Normal", {"mu": 0, "sigma": ("HalfCauchy", {"beta": 1.0})})
FLAT = ("Flat", {})


def rows(n_groups, n=4, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(n_groups), n)
    return pd.DataFrame({"g": codes, "x": rng.normal(size=len(codes))}), rng.normal(size=n_groups)[codes] + rng.normal(
        size=len(codes)
    )


# columns that add up are warned of before their posterior turns out to be none
@pytest.mark.filterwarnings("ignore::hbsk.exceptions.RedundantColumnsWarning")
@pytest.mark.parametrize(
    ("formula", "n_groups", "n", "priors", "names"),
    [
        ("y ~ 1 + (1 | g)", 2, 4, {"Intercept": FLAT, "1|g": HALF_FLAT}, "1.g"),
        ("y ~ 1 + (1 | g)", 1, 4, {"1|g": HALF_FLAT}, "1.g"),
        ("y ~ 1", 1, 2, {"Intercept": FLAT, "sigma": ("HalfFlat", {})}, "sigma"),
        (
            "y ~ 1 + x + (x | g)",
            2,
            2,
            {"common": FLAT, "group_specific": HALF_FLAT, "sigma": ("HalfFlat", {})},
            "sigma",
        ),
        ("y ~ 1 + x + x2", 2, 4, {"common": FLAT}, "rank 2"),
    ],
)
def test_improper_posteriors_are_errors_that_say_so(formula, n_groups, n, priors, names):
    X, y = rows(n_groups, n)
    X["x2"] = 3.0 - 2.0 * X["x"]
    formula = formula if "|" in formula else f"{formula} + (1 | g)"
    pooling = "partial" if "g" in names else "complete"
    with pytest.raises(ImproperPosteriorError, match=f"(?s)improper.*{names}"):
        PartialPoolingRegressor(formula, priors=priors, pooling=pooling).fit(X, y)


def test_without_pooling_too_few_rows_are_left_for_a_flat_sigma():
    X, y = rows(3, 1)
    with pytest.raises(ImproperPosteriorError, match="improper"):
        PartialPoolingRegressor("y ~ 1 + (1 | g)", priors={"sigma": ("HalfFlat", {})}, pooling="none").fit(X, y)


def test_three_groups_are_enough_for_a_flat_sd():
    X, y = rows(3)
    model = PartialPoolingRegressor("y ~ 1 + (1 | g)", priors={"Intercept": FLAT, "1|g": HALF_FLAT}).fit(X, y)
    # degrees 1: the posterior exists and not even the mean of tau does
    assert model.group_sd_["g"].tolist() == [np.inf]
    assert np.isfinite(model.summary().loc["1|g_sigma", ["eti95_lb", "eti95_ub"]].to_numpy(float)).all()


@pytest.fixture(scope="module")
def two_studies():
    """Two studies, flat mean, HalfCauchy tau: a tail of two degrees."""
    y, error = np.array([0.2, 0.9]), np.array([0.3, 0.4])
    X = pd.DataFrame({"g": ["a", "b"]})
    model = PartialPoolingRegressor("y ~ 1 + (1 | g)", priors={"Intercept": FLAT, "1|g": HALF_CAUCHY})
    return model.fit(X, y, standard_error=error), X, y, error


def test_a_mean_exists_where_the_variance_does_not(two_studies):
    model, _, y, error = two_studies
    tau = np.exp(np.linspace(-30.0, 60.0, 40_001))
    variance = error**2 + tau[:, None] ** 2
    density = stats.norm.pdf(y[1] - y[0], 0.0, np.sqrt(variance.sum(axis=1))) * stats.halfcauchy.pdf(tau) * tau
    mean = density @ tau / density.sum()
    table = model.summary()
    assert table.loc["1|g_sigma", "mean"] == pytest.approx(mean, rel=1e-6)
    assert model.group_sd_["g"].iloc[0] == pytest.approx(mean, rel=1e-6)
    assert table.loc[["1|g_sigma", "Intercept"], "sd"].tolist() == [np.inf, np.inf]
    assert np.isfinite(table[["mean", "eti95_lb", "eti95_ub"]]).all(axis=None)
    # studies have estimates of their own, of finite variance; a new one has none
    assert np.isfinite(model.group_effects()[["mean", "sd", "eti95_lb", "eti95_ub"]]).all(axis=None)
    new = pd.DataFrame({"g": ["a", "c"]})
    mean, std = model.predict(new, return_std=True, standard_error=0.3)
    assert np.isfinite(mean).all()
    assert np.isinf(std).tolist() == [False, True]
    assert np.isfinite(model.predict_interval(new, standard_error=0.3)).all()
    again = from_json(to_json(model))
    np.testing.assert_array_equal(again.predict(new, return_std=True, standard_error=0.3)[1], std)


def test_groups_in_which_a_column_does_not_vary_do_not_inform_its_sd():
    """Twelve groups, one of which varies in x, and a flat slope: the posterior of the slopes' sd is its prior."""
    rng = np.random.default_rng(4)
    codes = np.repeat(np.arange(12), 5)
    X = pd.DataFrame({"g": codes, "x": np.where(codes == 3, rng.normal(size=60), 0.0)})
    y = rng.normal(size=12)[codes] + X["x"] + rng.normal(size=60)
    priors = {"common": FLAT, "x|g": HALF_CAUCHY, "1|g": ("Normal", {"mu": 0, "sigma": ("HalfNormal", {"sigma": 2.0})})}
    model = PartialPoolingRegressor("y ~ x + (1 | g) + (0 + x | g)", priors=priors).fit(X, y)
    table = model.summary()
    assert table.loc["x|g_sigma", ["mean", "sd"]].tolist() == [np.inf, np.inf]
    np.testing.assert_allclose(
        table.loc["x|g_sigma", ["eti95_lb", "eti95_ub"]].to_numpy(float),
        stats.halfcauchy.ppf([0.025, 0.975]),
        rtol=0.05,
    )
    assert np.isinf(model.group_sd_["g"]).tolist() == [False, True]
    assert model.diagnostics_.loc["x|g_sigma", "mcse_mean"] == np.inf
    assert np.isfinite(table.loc["1|g_sigma"].to_numpy(float)).all()
    # the slope of the group that varies is told by its rows; the others, and the common slope, by nothing
    effects = model.group_effects().set_index(["term", "group"])["sd"]
    assert np.isinf(effects["x|g"]).tolist() == [group != 3 for group in range(12)]
    assert np.isfinite(effects["1|g"]).all()
    assert table.loc["x", "sd"] == np.inf
    std = model.predict(X, return_std=True)[1]
    assert np.isfinite(std).all()
    assert np.isinf(model.predict(X.assign(x=1.0), return_std=True)[1]).tolist() == (codes != 3).tolist()


def test_everything_is_infinite_where_the_residual_variance_has_no_mean():
    X, y = rows(1, 3)
    priors = {"Intercept": FLAT, "sigma": ("InverseGamma", {"alpha": 0.4, "beta": 1.0})}
    model = PartialPoolingRegressor("y ~ x + (1 | g)", pooling="complete", priors={**priors, "x": FLAT}).fit(X, y)
    # degrees 0.4 + 3 - 2
    assert np.isfinite(model.sigma_)
    assert np.isinf(model.predict(X, return_std=True)[1]).all()
    assert np.isinf(model.summary()["sd"]).all()
    model = PartialPoolingRegressor("y ~ x + (1 | g)", pooling="complete", priors={**priors, "x": FLAT}).fit(
        X[:2], y[:2]
    )
    assert model.sigma_ == np.inf
