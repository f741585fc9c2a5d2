"""Which posteriors and moments exist under NUTS and with several factors, by dense ranks and known integrals."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hbsk import PartialPoolingRegressor, from_json, to_json
from hbsk._bambi import sampling
from hbsk._engine.crossed import crossed_model
from hbsk._engine.crossed_propriety import crossed_rows_degrees
from hbsk._engine.propriety import GrowingSds, ImproperPosteriorError, Tails, tail_degrees
from hbsk._model.tail_priors import POWERS_AT_ZERO, _of_precision
from hbsk.exceptions import ConvergenceWarning
from tests.test_crossed_engine import Rows
from tests.test_new_groups import prior_draws
from tests.test_propriety import FLAT, HALF_CAUCHY, HALF_FLAT, rows

CAUCHY = ("Cauchy", {"alpha": 0, "beta": 1})


def normal(**arguments):
    return "Normal", {"mu": 0.0, "sigma": 1.0} | arguments


# formula, groups, rows of each, priors, what the message names
IMPROPER = [
    ("y ~ 1 + (1 | g)", 2, 4, {"Intercept": FLAT, "1|g": HALF_FLAT}, "1.g"),
    ("y ~ 1 + (1 | g)", 1, 4, {"1|g": HALF_FLAT}, "1.g"),
    ("y ~ 1 + (1 | g)", 1, 2, {"Intercept": FLAT, "sigma": ("HalfFlat", {})}, "sigma"),
    ("y ~ 1 + x + x2 + (1 | g)", 2, 4, {"common": FLAT}, "rank 2"),
    # a fixed coefficient, and one with a prior of another family, are not flat; their group sd is
    ("y ~ 1 + x + (1 | g)", 1, 6, {"Intercept": 0.0, "x": CAUCHY, "1|g": HALF_FLAT}, "1.g"),
    ("y ~ 1 + (1 | g)", 2, 4, {"Intercept": FLAT, "1|g": ("StudentT", {"nu": 4, "sigma": ("HalfFlat", {})})}, "1.g"),
    # the mean of the effects and the intercept are one
    ("y ~ 1 + (1 | g)", 9, 4, {"Intercept": FLAT, "1|g": normal(mu=FLAT)}, "means of effects.*rank 1"),
    # and leave two contrasts of three groups
    ("y ~ 0 + x + (1 | g)", 2, 4, {"1|g": ("Normal", {"mu": FLAT, "sigma": ("HalfFlat", {})})}, "1.g"),
    # where the precision is large, no group differs, which is possible
    ("y ~ 1 + (1 | g)", 9, 4, {"1|g": ("Normal", {"mu": 0, "tau": ("HalfFlat", {})})}, "tau in the Normal"),
    ("y ~ 1 + (1 | g)", 9, 4, {"1|g": ("StudentT", {"nu": ("HalfFlat", {}), "sigma": 1})}, "nu in the StudentT"),
    # crossed factors, one of which has two levels
    ("y ~ 1 + (1 | g) + (1 | h)", 6, 4, {"Intercept": FLAT, "1|h": HALF_FLAT}, "1.h"),
    # and the common levels of both, which one of two flat sds may have
    ("y ~ 1 + x + (x | g) + (1 | h)", 2, 4, {"common": FLAT, "x|g": HALF_FLAT}, "x.g"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::hbsk.exceptions.RedundantColumnsWarning")
@pytest.mark.parametrize(("formula", "n_groups", "n", "priors", "names"), IMPROPER)
def test_improper_posteriors_are_refused_before_anything_is_sampled(formula, n_groups, n, priors, names, monkeypatch):
    monkeypatch.setattr(sampling, "sample_posterior", lambda *_, **__: pytest.fail("NUTS was started"))
    X, y = rows(n_groups, n)
    X = X.assign(x2=3.0 - 2.0 * X["x"], h=np.arange(len(X)) % 2)
    with pytest.raises(ImproperPosteriorError, match=f"(?s)improper.*{names}"):
        PartialPoolingRegressor(formula, priors=priors, inference="nuts").fit(X, y)


@pytest.mark.parametrize(
    "priors",
    [
        {"Intercept": FLAT, "1|g": HALF_FLAT},
        {"Intercept": ("Normal", {"mu": 0, "sigma": 3}), "1|g": ("Normal", {"mu": FLAT, "sigma": ("HalfFlat", {})})},
        {"Intercept": CAUCHY, "1|g": ("Laplace", {"mu": 0, "b": ("HalfFlat", {})})},
    ],
)  # fmt: skip
def test_three_groups_are_enough_for_a_flat_scale(priors, monkeypatch):
    class BegunError(Exception):
        pass

    def begun(*_, **__):
        raise BegunError

    monkeypatch.setattr(sampling, "sample_posterior", begun)
    X, y = rows(3)
    with pytest.raises(BegunError):
        PartialPoolingRegressor("y ~ 1 + (1 | g)", priors=priors, inference="nuts").fit(X, y)


PRECISIONS = {
    ("HalfNormal", ("sigma", 2.0)): stats.halfnorm(scale=2.0),
    ("HalfCauchy", ("beta", 2.0)): stats.halfcauchy(scale=2.0),
    ("Exponential", ("lam", 2.0)): stats.expon(scale=0.5),
    ("Gamma", ("alpha", 0.3), ("beta", 2.0)): stats.gamma(0.3, scale=0.5),
    ("Gamma", ("mu", 2.0), ("sigma", 3.0)): stats.gamma(4 / 9, scale=4.5),
    ("Weibull", ("alpha", 0.7), ("beta", 2.0)): stats.weibull_min(0.7, scale=2.0),
    ("Beta", ("alpha", 0.4), ("beta", 2.0)): stats.beta(0.4, 2.0),
    ("Beta", ("mu", 0.3), ("sigma", 0.4)): stats.beta(0.3 * (0.21 / 0.16 - 1), 0.7 * (0.21 / 0.16 - 1)),
    ("Uniform", ("lower", 0.0), ("upper", 3.0)): stats.uniform(0, 3),
    ("Uniform", ("lower", 1.0), ("upper", 3.0)): None,
    ("InverseGamma", ("alpha", 0.4), ("beta", 2.0)): None,
    ("LogNormal", ("mu", 0.4), ("sigma", 2.0)): None,
}


@pytest.mark.parametrize("prior", PRECISIONS)
def test_tails_of_sds_whose_precision_has_a_prior(prior):
    name, *arguments = prior
    found = tail_degrees(_of_precision((name, dict(arguments)), 0))
    if PRECISIONS[prior] is None:
        assert found == np.inf
        return
    sd = np.array([1e5, 1e6])
    # density of sd = tau^(-1/2) by change of variables
    log_density = PRECISIONS[prior].logpdf(sd**-2.0) - 3 * np.log(sd)
    assert found == pytest.approx(-np.diff(log_density)[0] / np.log(10.0) - 1, abs=1e-4)


def test_all_families_that_may_have_density_at_zero_are_known():
    assert {name for name, *_ in PRECISIONS} >= set(POWERS_AT_ZERO) - {"HalfStudentT", "TruncatedNormal"}


@pytest.mark.parametrize("columns", [(0,), (1,), (0, 2), (1, 2, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("means", [(), (2,), (1, 2)])
def test_rows_of_several_factors_without_a_variance_are_those_that_are_not_estimable(columns, means):
    data = Rows((4, 5), (2, 2), n=14, seed=3)
    data.Z[0][:, 1] *= data.codes[0] < 2  # a column that varies in two levels only
    model, scalings = crossed_model(*data.collect(), data.priors())
    flat = np.array([False, False, True])
    to_prior = model.parameters.location.prior_columns
    tails = Tails(
        (GrowingSds(columns, False, 1.5),), np.append(flat, np.ones(len(means), dtype=bool)), to_prior, means=means
    )

    def design(X, Z, codes):
        """[X_F, Z_S] written out; levels beyond the last are new ones, whose effects no data inform."""
        together = np.hstack(Z)
        blocks = [X[:, [2]] - data.X[:, 2].mean() * X[:, [0]], together[:, list(means)]]
        for k in columns:
            f, n_levels = divmod(k, 2)[0], data.n_groups[k // 2] + 1
            blocks.append(together[:, [k]] * (codes[f][:, None] == np.arange(n_levels)))
        return np.hstack(blocks)

    rng = np.random.default_rng(0)
    X = np.concatenate([data.X, np.eye(3), np.zeros((8, 3)), rng.normal(size=(20, 3))])
    Z = [np.concatenate([z, np.zeros((3, 2)), np.tile(np.eye(2), (4, 1)), rng.normal(size=(20, 2))]) for z in data.Z]
    Z[1][-8:] = 0.0
    codes = [
        np.concatenate([code, np.zeros(3, int), np.arange(8) % (n + 1), rng.integers(0, n + 1, 20)])
        for code, n in zip(data.codes, data.n_groups, strict=True)
    ]
    of_data, of_rows = design(data.X, data.Z, data.codes), design(X, Z, codes)
    rank = np.linalg.matrix_rank(of_data)
    wanted = [np.linalg.matrix_rank(np.vstack([of_data, row])) > rank for row in of_rows]
    engine = [scaling.varying(z) for scaling, z in zip(scalings, Z, strict=True)]
    found = crossed_rows_degrees(tails, model.sums, scalings[0].common(X, True), engine, codes)
    np.testing.assert_array_equal(found, np.where(wanted, 1.5, np.inf))
    assert 0 < np.sum(wanted) < len(wanted)


# What users see


@pytest.fixture(scope="module", params=["one factor", "two factors", "two factors, integrated"])
def without_variances(request):
    """Two groups and a flat mean but for the prior: tails of 1 + 1 degrees, and of 1 where nothing informs a slope."""
    X, y = rows(2, 6)
    X = X.assign(h=["a", "b", "c"] * 4, x=np.where(X["g"] == 0, X["x"], 0.0))
    priors = {"common": ("Normal", {"mu": 0, "sigma": 1e3}), "1|g": HALF_CAUCHY, "x|g": HALF_CAUCHY}
    formula = "y ~ x + (1 | g) + (0 + x | g)" + (" + (1 | h)" if "two" in request.param else "")
    if request.param == "two factors, integrated":
        model = PartialPoolingRegressor(formula, priors=priors)
        return request.param, X, model.fit(X, y)
    model = PartialPoolingRegressor(formula, priors=priors, inference="nuts", random_state=0)
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one chain of draws of the prior
        prior_draws(patch, 200)
        return request.param, X, model.fit(X, y)


def test_what_does_not_exist_is_infinite_whatever_draws_say(without_variances):
    _, X, model = without_variances
    table = model.summary()
    # d = 1 + 2 for the intercepts of two groups; 1 + 1 for the slopes, of which one group tells
    assert np.isfinite(model.group_sd_["g"]).all()
    assert np.isinf(table["sd"]).to_dict()["x|g_sigma"]
    assert np.isfinite(table.loc[["1|g_sigma", "x", "Intercept"], "sd"]).all()
    assert np.isfinite(table[["eti95_lb", "eti95_ub"]]).all(axis=None)
    effects = model.group_effects().query("factor == 'g'").set_index(["term", "group"])["sd"]
    assert np.isinf(effects["x|g"]).tolist() == [False, True]
    assert np.isfinite(effects["1|g"]).all()
    new = X.iloc[:2].assign(g=[0, 7], x=1.0)
    for again in (model, from_json(to_json(model))):
        assert np.isinf(again.predict(new, return_std=True)[1]).tolist() == [False, True]
        assert np.isfinite(again.predict(new.assign(x=0.0), return_std=True)[1]).all()
        assert np.isfinite(again.predict_interval(new)).all()
    assert np.isinf(model.diagnostics_.loc["x|g_sigma", "mcse_mean"])


def test_several_factors_without_variances_are_integrated(without_variances):
    name, _, model = without_variances
    if name == "two factors, integrated":
        assert model.inference_.startswith("marginal (exact for several grouping factors")


def test_medians_of_two_factors_with_heavy_tails_are_those_of_a_grid():
    """Known errors, two crossed factors of two levels, a flat mean: tau_h HalfCauchy, against a grid of both sds."""
    X = pd.DataFrame({"g": list("aabb"), "h": list("cdcd")})
    y, error = np.array([0.1, 1.4, 0.3, 2.0]), np.array([0.3, 0.4, 0.2, 0.5])
    half = ("Normal", {"mu": 0, "sigma": ("HalfNormal", {"sigma": 1.0})})
    model = PartialPoolingRegressor(
        "y ~ 1 + (1 | g) + (1 | h)", priors={"Intercept": FLAT, "1|g": half, "1|h": HALF_CAUCHY}
    ).fit(X, y, standard_error=error)
    assert model.inference_.startswith("marginal")
    table = model.summary()
    # tails of 1 + 1 degrees: the mean exists, the variance does not
    assert np.isinf(table.loc[["1|h_sigma", "Intercept"], "sd"]).all()
    assert np.isfinite(table.loc["1|g_sigma", "sd"])
    a, b = (np.arange(120) + 0.5) * 0.05, np.exp(np.linspace(-8, 14, 300))
    weight = np.zeros((len(a), len(b)))
    same_g, same_h = (np.equal.outer(X[k].to_numpy(), X[k].to_numpy()) for k in "gh")
    for i, tau_g in enumerate(a):
        V = np.diag(error**2) + tau_g**2 * same_g + b[:, None, None] ** 2 * same_h
        solved = np.linalg.solve(V, np.column_stack([np.ones(4), y])[None])
        one, of_y = solved[:, :, 0], solved[:, :, 1]
        information = one.sum(axis=1)
        square = of_y @ y - (one @ y) ** 2 / information
        weight[i] = np.exp(-0.5 * (np.linalg.slogdet(V)[1] + np.log(information) + square))
    weight *= stats.halfnorm.pdf(a)[:, None] * stats.halfcauchy.pdf(b) * b
    weight /= weight.sum()
    # probabilities up to the ends of the cells
    for name, ends, marginal in (
        ("1|g_sigma", a + 0.025, weight.sum(1)),
        ("1|h_sigma", b * np.exp(11 / 299), weight.sum(0)),
    ):
        reached = np.append(0.0, marginal.cumsum())
        below = np.interp(table.loc[name, ["eti95_lb", "eti95_ub"]].to_numpy(float), np.append(0.0, ends), reached)
        np.testing.assert_allclose(below, [0.025, 0.975], atol=0.006)
    assert table.loc["1|h_sigma", "mean"] == pytest.approx(weight.sum(0) @ b, rel=0.05)
