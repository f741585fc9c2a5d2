"""A factor with a varying intercept has the same lines wherever its columns are measured from."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hbsk import PartialPoolingRegressor
from hbsk._engine.fit import marginal_model
from hbsk._engine.sd_prior import SdPrior
from hbsk._engine.variance_parameters import VarianceParameters
from hbsk._engine.varying_location import locate, moved_sds, offset_matrix, sds_and_correlations
from hbsk.datasets import load_sleepstudy
from tests import dense
from tests.dense import make_priors, make_problem

HALF_NORMAL, STUDENT = SdPrior("HalfNormal", {"sigma": 1.7}), SdPrior("HalfStudentT", {"nu": 3.0, "sigma": 0.9})


def many_lines(rng, n_columns, n_groups=9, n_rows=160):
    X = pd.DataFrame(rng.normal(size=(n_rows, n_columns)), columns=[f"x{k}" for k in range(n_columns)])
    codes = rng.integers(0, n_groups, n_rows)
    slopes = rng.normal(size=(n_groups, n_columns))
    y = 5.0 + rng.normal(size=n_groups)[codes] * 2 + np.sum(X.to_numpy() * slopes[codes], axis=1)
    X.insert(0, "g", codes)
    return X, y + rng.normal(size=n_rows)


def answers(model, X, y, **options):
    """Everything that is about lines, in units of the sd of y."""
    model.fit(X, y, **options)
    new = X.head(8).assign(**{X.columns[0]: -1})
    known = {"standard_error": options["standard_error"]} if "standard_error" in options else {}
    parts = [*model.predict(X, return_std=True, **known), model.predict_interval(X, **known)]
    if model.pooling == "partial":
        known = {name: value[:8] for name, value in known.items()}
        parts += model.predict(new, return_std=True, **known)
    return np.concatenate([np.ravel(part) for part in parts]) / y.std()


# The same lines at any shift and any scale


@pytest.mark.parametrize("options", [{}, {"correlated": False}, {"pooling": "none"}], ids=str)
def test_sleepstudy_has_the_same_lines_at_any_shift(options):
    X, y = load_sleepstudy(return_X_y=True, as_frame=True)

    def fitted(shift, scale):
        model = PartialPoolingRegressor("Days + (Days | Subject)", **options)
        return answers(model, X.assign(Days=X["Days"] * scale + shift), y), model

    wanted, at_zero = fitted(0.0, 1.0)
    for shift, scale in ((1e2, 1.0), (4.5e4, 1.0), (1e6, 1.0), (1.7e9, 1.0), (0.0, 1e-9), (0.0, 1e9), (-3e8, 1e6)):
        found, model = fitted(shift, scale)
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6, err_msg=f"{shift} {scale}")
        if options.get("pooling") == "none":
            continue
        assert model.inference_.startswith("marginal")
        # slopes have the same sd wherever the intercept stands
        assert model.group_sd_["Subject"].iloc[1] == pytest.approx(
            at_zero.group_sd_["Subject"].iloc[1] / scale, rel=1e-6
        )
        assert model.priors_["centre|Subject"] == {"Days": pytest.approx(4.5 * scale + shift, rel=1e-12)}


@pytest.mark.parametrize(
    "formula",
    [
        "x0 + (x0 || g)",
        "x0 + x1 + (x0 + x1 | g)",
        "x0 + x1 + x2 + (x0 + x1 + x2 | g)",
        "x0 + x1 + (x0 | g) + (0 + x1 | g)",
        "x0 + x1 + (1 | g) + (0 + x0 | g) + (0 + x1 | g)",
        "x1 + (x0 | g)",
        "x0 + (1 | g)",
    ],
)
def test_shifted_columns_have_the_same_lines(rng, formula):
    X, y = many_lines(rng, 3)
    options = {}
    if "x2" in formula or "||" in formula:
        options = {"sample_weight": rng.integers(1, 4, len(y)).astype(float)}
    if "(0 + x1 | g)" in formula or formula.startswith("x1"):
        options = {"standard_error": rng.uniform(0.5, 1.5, len(y))}
    wanted = answers(PartialPoolingRegressor(formula), X, y, **options)
    far = X.assign(x0=X["x0"] + 2.0**20, x1=1e-9 * (X["x1"] - 2.0**20), x2=X["x2"] + 300.0)
    found = answers(PartialPoolingRegressor(formula), far, y, **options)
    # the columns themselves are rounded to 1e-10 there
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_years_are_a_slope_like_any_other(rng):
    X = pd.DataFrame({"g": np.repeat(np.arange(12), 15), "year": np.tile(np.arange(2010, 2025), 12)})
    slopes = rng.normal(size=12)
    y = 3.0 + slopes[X["g"]] * (X["year"] - 2017) + rng.normal(size=180)
    near = X.assign(year=X["year"] - 2010)
    found, wanted = (answers(PartialPoolingRegressor("year + (year | g)"), rows, y) for rows in (X, near))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


# Priors at a point of their own


@pytest.mark.parametrize("errors", [False, True])
@pytest.mark.parametrize(("q", "blocks"), [(2, ((0, 1),)), (3, ((0, 1, 2),)), (3, ((0, 1), (2,)))])
def test_priors_at_raw_zero_far_from_the_data_are_those_of_brute_force(rng, q, blocks, errors):
    # log p(y | sigma, Sigma) by n x n matrices times the prior density of (tau, Omega), at a shift of 1e3
    problem = make_problem(rng, q=q, n_rows=31, errors=errors)
    shift = np.append(0.0, np.full(q - 1, 1e3))
    X = problem.X.copy()
    X[:, 1:q] += shift[1:]
    problem = dense.replace(problem, X=X, Z=problem.Z + shift)
    priors = dense.replace(
        make_priors(rng, problem, blocks=blocks, residual_sd=0.8), group_sd=[HALF_NORMAL, STUDENT, STUDENT][:q]
    )
    model, scaling = marginal_model(problem.collect(), priors)
    parameters = model.parameters
    theta = 0.5 * rng.normal(size=(5, parameters.n_dim))
    points = model.evaluate(theta)
    found, wanted = [], []
    for m in range(len(theta)):
        sigma = 1.0 if errors else 0.8
        raw = scaling.effects(points.variance.relative_factor[m].T).T * (1.0 if errors else 0.8 / scaling.y_scale)
        tau = np.linalg.norm(raw, axis=1)
        # effects of sd one on columns that are multiplied first: products of sds would lose the digits of the shift
        white = dense.replace(problem, Z=problem.Z @ raw)
        likelihood = dense.log_marginal(white, priors, sigma, np.eye(q))
        prior = sum(sd.log_density(np.array([t]))[0] for sd, t in zip(priors.group_sd, tau, strict=True))
        root = np.abs(np.diag(np.linalg.qr(raw.T, mode="r"))) / tau
        for block in blocks:
            log_det = 2 * np.sum(np.log(root[list(block)]))
            prior += (1.4 - 1) * log_det
        # |d Sigma / d (tau, Omega)| is a constant times prod tau^q, and a shift of columns leaves volumes as they are
        volume = np.linalg.slogdet(numeric_jacobian(lambda t: work_covariance(parameters, blocks, t), theta[m]))[1]
        volume -= sum(len(block) * np.sum(np.log(tau[list(block)])) for block in blocks)
        found.append(points.log_density[m])
        wanted.append(likelihood + prior + volume)
    # one constant: units, and that of the LKJ density; the dense side loses digits at 1e3
    difference = np.array(found) - wanted
    np.testing.assert_allclose(difference, np.median(difference), rtol=0, atol=1e-5)


def work_covariance(parameters, blocks, theta):
    """The entries of the blocks of Sigma where theta parametrises it."""
    points = parameters.points(theta[None])
    factor = (points.relative_sd[:, :, None] * points.correlation_factor)[0]
    covariance = factor @ factor.T * (1.0 if points.sigma is None else points.sigma[0] ** 2)
    return np.concatenate([covariance[np.ix_(block, block)][np.tril_indices(len(block))] for block in blocks])


def prior_parameters(parameters, blocks, theta):
    """Log sds and correlations, where the priors are stated, as functions of theta."""
    points = parameters.points(theta[None])
    work = points.relative_sd[:, :, None] * points.correlation_factor
    factor = work if parameters.location is None else parameters.location.to_prior @ work
    scale = 1.0 if points.sigma is None else points.sigma[0]
    sd, correlation = sds_and_correlations(factor)
    pairs = [correlation[0, block[i], block[j]] for block in blocks for i in range(len(block)) for j in range(i)]
    return np.concatenate([scale * sd[0], pairs])


def numeric_jacobian(function, at, step=1e-5):
    moves = step * np.eye(len(at))
    return np.array([(function(at + move) - function(at - move)) / (2 * step) for move in moves]).T


@pytest.mark.parametrize("eta", [0.5, 1.0, 3.0])
@pytest.mark.parametrize("q", [2, 3, 4])
def test_a_moved_prior_is_the_prior_times_the_numeric_jacobian(rng, q, eta):
    shift = np.append(0.0, rng.normal(size=q - 1) * 3)
    blocks = (tuple(range(q)),)
    location = locate(shift, 0, blocks, (eta,), [True] * q)
    priors = [HALF_NORMAL, STUDENT, HALF_NORMAL, STUDENT][:q]
    parameters = VarianceParameters(1.0, priors, blocks, (eta,), None, location)
    plain = VarianceParameters(1.0, priors, blocks, (eta,))
    theta = 0.4 * rng.normal(size=(4, parameters.n_dim))
    points = parameters.points(theta)
    found = parameters.sd_log_prior(theta, np.ones((4, 1)), points.prior_sd)[:, 0]
    found = found + parameters.correlation_log_prior(theta) + parameters.location_log_prior(points)
    for m in range(4):
        # LKJ(eta) is |Omega|^(eta - 1) times a constant, here that of our own law at independence
        sd = points.prior_sd[m]
        root = location.to_prior @ (points.relative_sd[m, :, None] * points.correlation_factor[m])
        log_det = 2 * np.linalg.slogdet(root)[1] - 2 * np.sum(np.log(sd))
        constant = plain.correlation_log_prior(np.zeros((1, plain.n_dim)))[0]
        constant -= q * (q - 1) / 2 * (np.log(2) + stats.norm.logpdf(0.0))
        wanted = constant + (eta - 1) * log_det
        wanted += sum(prior.log_density(sd[[k]])[0] for k, prior in enumerate(priors))
        wanted += np.linalg.slogdet(numeric_jacobian(lambda t: prior_parameters(parameters, blocks, t), theta[m]))[1]
        assert found[m] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("blocks", "priors", "residual"),
    [
        (((0, 1, 2),), [HALF_NORMAL, STUDENT, STUDENT], STUDENT),
        (((0, 1), (2,)), [HALF_NORMAL, STUDENT, STUDENT], STUDENT),
        (((0,), (1,), (2,)), [HALF_NORMAL, STUDENT, STUDENT], STUDENT),
        (((0, 1, 2),), [HALF_NORMAL, STUDENT, STUDENT], 0.8),
        (((0, 1, 2),), [HALF_NORMAL, 0.7, STUDENT], STUDENT),
        (((1, 2), (0,)), [HALF_NORMAL, STUDENT, STUDENT], STUDENT),
    ],
)
def test_gradients_of_moved_priors_are_numeric_differences(rng, blocks, priors, residual):
    problem = make_problem(rng, q=3, n_rows=40)
    exact = dense.replace(make_priors(rng, problem, blocks=blocks, residual_sd=residual), group_sd=priors)
    exact = dense.replace(exact, centre=np.array([0.0, 3.0, -2.0]))
    model, _ = marginal_model(problem.collect(), exact)
    assert model.parameters.location is not None
    theta = 0.5 * rng.normal(size=(3, model.parameters.n_dim))
    _, gradient = model.value_and_gradient(theta)
    for m in range(3):
        wanted = numeric_jacobian(lambda t: model.evaluate(t[None]).log_density, theta[m])[0]
        np.testing.assert_allclose(gradient[m], wanted, rtol=1e-4, atol=1e-4)


def test_effects_have_a_prior_of_the_users_at_zero(rng):
    # 1 | g and x | g fixed and independent at zero, everything Gaussian: the dense law is exact
    X, y = many_lines(rng, 1, n_groups=6, n_rows=50)
    X["x0"] += 30.0
    priors = {
        "Intercept": ("Normal", {"mu": 0.0, "sigma": 10.0}),
        "x0": ("Normal", {"mu": 0.0, "sigma": 2.0}),
        "1|g": ("Normal", {"mu": 0.0, "sigma": 3.0}),
        "x0|g": ("Normal", {"mu": 0.0, "sigma": 0.4}),
        "sigma": 1.1,
    }
    model = PartialPoolingRegressor("x0 + (x0 || g)", priors=priors).fit(X, y)
    assert model.priors_["centre|g"] == {"x0": 0.0}
    centred, codes = X["x0"] - X["x0"].mean(), X["g"].to_numpy()
    columns = np.column_stack([np.ones(50), centred])
    groups = np.column_stack([(codes == j) * c for j in range(6) for c in (np.ones(50), X["x0"])])
    covariance = columns @ np.diag([100.0, 4.0]) @ columns.T + groups @ np.diag(np.tile([9.0, 0.16], 6)) @ groups.T
    gain = np.linalg.solve(covariance + 1.21 * np.eye(50), covariance)
    np.testing.assert_allclose(model.predict(X), gain.T @ y, rtol=1e-8)


# The key in priors


def test_effects_that_are_independent_at_zero_have_no_correlation_there(rng):
    X, y = many_lines(rng, 1)
    X["x0"] += 3.0  # the columns of the engine are about the mean, at which the effects are correlated
    rows = [
        [row for row in model.summary().index if row.startswith("corr_")]
        for point in (0.0, 3.0)
        for model in [PartialPoolingRegressor("x0 + (x0 || g)", priors={"centre|g": {"x0": point}}).fit(X, y)]
    ]
    assert rows == [[], ["corr_g[1, x0]"]]


def test_priors_that_are_shown_repeat_the_fit(rng):
    X, y = many_lines(rng, 2)
    X[["x0", "x1"]] += [700.0, -20.0]
    given = [
        None,
        {"centre|g": {"x0": 650}},
        {"1|g": ("Normal", {"mu": 0, "sigma": ("HalfNormal", {"sigma": 2000.0})})},
        {"corr|g": 2.0},
        {"x0|g": ("Normal", {"mu": 0, "sigma": ("HalfNormal", {"sigma": 1.0})})},
    ]
    points = [(700, -20), (650, 0), (0, 0), (0, 0), (700, -20)]
    for priors, point in zip(given, points, strict=True):
        model = PartialPoolingRegressor("x0 + x1 + (x0 + x1 | g)", priors=priors).fit(X, y)
        centre = model.priors_["centre|g"]
        assert (centre["x0"], centre["x1"]) == pytest.approx(point, abs=0.3)
        again = PartialPoolingRegressor("x0 + x1 + (x0 + x1 | g)", priors=model.priors_).fit(X, y)
        np.testing.assert_array_equal(again.predict(X), model.predict(X))
        assert again.priors_ == model.priors_


def test_default_scales_are_bambis_on_columns_less_the_point(rng):
    X, y = many_lines(rng, 2)
    X["x0"] += 40.0
    s, mean = y.std(), X["x0"].mean()
    for centre, distance in ((mean, 0.0), (0.0, mean), (35.0, mean - 35.0)):
        model = PartialPoolingRegressor("x0 + x1 + (x0 | g)", priors={"centre|g": {"x0": centre}}).fit(X, y)
        scale = model.priors_["1|g"][1]["sigma"][1]["sigma"]
        slope = 2.5 * s / X["x0"].std(ddof=0)
        assert scale == pytest.approx(np.hypot(2.5 * s, slope * distance), rel=1e-9)
        assert model.priors_["x0|g"][1]["sigma"][1]["sigma"] == pytest.approx(slope, rel=1e-9)


def test_the_point_is_plain_data_and_checked(rng):
    X, y = many_lines(rng, 2)

    def fit(formula, centre, key="centre|g"):
        return PartialPoolingRegressor(formula, priors={key: centre}).fit(X, y)

    assert fit("x0 + x1 + (x0 | g)", {}).priors_["centre|g"] == {"x0": 0.0}
    with pytest.raises(ValueError, match=r"'centre\|g'.*names 'x1'.*Columns: 'x0'"):
        fit("x0 + x1 + (x0 | g)", {"x1": 1.0})
    with pytest.raises(ValueError, match="must be a finite number, got 'a'"):
        fit("x0 + (x0 | g)", {"x0": "a"})
    with pytest.raises(ValueError, match="must be a finite number, got nan"):
        fit("x0 + (x0 | g)", {"x0": float("nan")})
    with pytest.raises(ValueError, match="is a dict from columns to numbers"):
        fit("x0 + (x0 | g)", 3.0)
    with pytest.raises(ValueError, match=r"no varying intercept in their parentheses.*another model"):
        fit("x0 + (0 + x0 | g)", {"x0": 1.0})
    with pytest.raises(ValueError, match=r"no varying intercept in their parentheses.*another model"):
        fit("x0 + x1 + (1 | g) + (0 + x0 + x1 | g)", {"x0": 1.0})
    with pytest.raises(ValueError, match="names '1', which is no varying column"):
        fit("x0 + (x0 | g)", {"1": 1.0})
    with pytest.raises(ValueError, match=r"'centre\|h', which is no term of this model.*'centre\|g'"):
        fit("x0 + (x0 | g)", {"x0": 1.0}, key="centre|h")
    assert "centre|g" not in fit("x0 + (1 | g)", {}).priors_


def test_a_column_called_centre_is_told_from_the_point(rng):
    X, y = many_lines(rng, 1)
    X = X.rename(columns={"x0": "centre"})
    model = PartialPoolingRegressor("centre + (centre | g)").fit(X, y)
    assert model.priors_["centre|g"] == {"`centre`": pytest.approx(X["centre"].mean())}


# Array functions


def test_sds_and_correlations_move_as_the_covariance_does(rng):
    factor = rng.normal(size=(5, 3, 3))
    centre = np.array([4.0, 0.0, -2.0])
    moved = offset_matrix(centre, 1) @ factor
    wanted_sd, wanted = sds_and_correlations(moved)
    sd, correlation = moved_sds(*sds_and_correlations(factor), centre, 1)
    np.testing.assert_allclose(sd, wanted_sd, rtol=1e-10)
    np.testing.assert_allclose(correlation, wanted, atol=1e-10)
