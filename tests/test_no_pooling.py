"""No pooling against regressions with a column for every group, and against partial pooling with huge fixed sds."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hbsk import PartialPoolingRegressor
from hbsk._engine.fit import marginal_model
from hbsk._engine.sd_prior import SdPrior
from hbsk._posterior.integrated import fit_marginal
from hbsk._posterior.no_pooling import absorbed_directions, fit_no_pooling, pseudo_inverses
from hbsk.predictive_checks import posterior_predictive_check
from tests import dense
from tests.dense import Problem, make_priors, make_problem

KINDS = pytest.mark.parametrize(
    ("weights", "errors"),
    [(False, False), (True, False), (False, True), (True, True)],
    ids=["plain", "f", "se", "f+se"],
)


def big_groups(rng, q=2, **kinds):
    """A problem in which every group identifies its own effects, and a column that varies within groups."""
    problem = make_problem(rng, q=q, p=4, n_groups=4, n_rows=60, **kinds)
    codes = np.concatenate([np.repeat(np.arange(4), q + 3), problem.codes[4 * (q + 3) :]])
    return dense.replace(problem, codes=codes)


def no_pooling(problem, priors):
    model, scaling = marginal_model(problem.collect(), priors)
    return fit_no_pooling(model, scaling, problem.has_intercept)


def regression(problem, priors, sigma, shared):
    """Conditional law of (shared coefficients of centred columns, own ones of each group), flat in the latter."""
    X = problem.centred()[:, shared]
    if problem.weight is not None:
        X = np.repeat(X, problem.weight.astype(int), axis=0)
    copied = problem.copied()
    H = np.column_stack([X, dense.group_columns(copied)])
    precision = np.zeros(H.shape[1])
    precision[: len(shared)] = priors.common_sd[shared] ** -2.0
    noise = dense.noise_variance(copied, sigma)
    information = H.T @ (H / noise[:, None]) + np.diag(precision)
    mean = np.zeros(H.shape[1])
    mean[: len(shared)] = priors.common_mean[shared]
    moment = H.T @ (copied.y / noise) + precision * mean
    return np.linalg.solve(information, moment), np.linalg.inv(information)


@KINDS
@pytest.mark.parametrize("q", [1, 2])
def test_rows_of_known_groups_are_those_of_the_regression(rng, q, weights, errors):
    problem = big_groups(rng, q, weights=weights, errors=errors)
    priors = make_priors(rng, problem, residual_sd=0.9)
    posterior = no_pooling(problem, priors)
    # the intercept and the columns with varying slopes belong to the groups
    shared = np.arange(q, 4)
    mean, covariance = regression(problem, priors, 0.9, shared)
    centre = problem.X[0] - problem.centred()[0]
    x, codes = rng.normal(size=(9, 4)), np.array([0, 1, 2, 3, 3, 0, 1, 1, 2])
    x[:, 0] = 1.0
    z = np.column_stack([np.ones(9), x[:, 1:q]])
    H = np.zeros((9, len(mean)))
    H[:, : len(shared)] = (x - centre)[:, shared]
    for r in range(9):
        at = len(shared) + q * codes[r]
        H[r, at : at + q] = z[r]
    for n_rows in (3, 9):  # by the mixture, by moments of groups
        found_mean, variance = posterior.row_moments(x[:n_rows], [z[:n_rows]], [codes[:n_rows]])
        np.testing.assert_allclose(found_mean, (H @ mean)[:n_rows], rtol=1e-7, atol=1e-8)
        np.testing.assert_allclose(variance, np.einsum("ri,ij,rj->r", H, covariance, H)[:n_rows], rtol=1e-6)
    draws, sigma = posterior.row_draws(x, [z], [codes], 20_000, rng)
    if not errors:
        np.testing.assert_allclose(sigma, 0.9, rtol=1e-9)
    scale = np.sqrt(np.einsum("ri,ij,rj->r", H, covariance, H))
    np.testing.assert_allclose((draws.mean(axis=0) - H @ mean) / scale, 0.0, atol=0.04)
    np.testing.assert_allclose(draws.std(axis=0) / scale, 1.0, atol=0.04)


@pytest.mark.parametrize("q", [1, 2])
def test_huge_fixed_sds_are_no_pooling(rng, q):
    problem = big_groups(rng, q)
    priors = make_priors(rng, problem, residual_sd=0.9, blocks=tuple((k,) for k in range(q)))
    priors = dense.replace(priors, group_sd=[1e5] * q)
    # the intercept and slopes of the population are free as well, as no pooling has them
    sd = priors.common_sd.copy()
    sd[:q] = 1e4
    priors = dense.replace(priors, common_sd=sd)
    partial, none = fit_marginal(problem.collect(), priors).posterior, no_pooling(problem, priors)
    rows = problem.X, [problem.Z], [problem.codes]
    found, wanted = none.row_moments(*rows), partial.row_moments(*rows)
    np.testing.assert_allclose(found[0], wanted[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[1], wanted[1], rtol=1e-4)
    np.testing.assert_allclose(partial.shrinkage(), none.shrinkage(), atol=1e-6)


def test_residual_sd_has_its_posterior_under_flat_effects(rng):
    problem = big_groups(rng, 2)
    priors = make_priors(rng, problem)
    posterior = no_pooling(problem, priors)
    shared = np.array([2, 3])
    X = problem.centred()[:, shared]
    grid = np.linspace(0.5, 25.0, 800)
    log_density = []
    for sigma in grid:
        # integrate the shared slopes over their prior, the effects of groups over everything
        rotate = np.linalg.qr(dense.group_columns(problem), mode="complete")[0][:, 8:]
        y, columns = rotate.T @ (problem.y - X @ priors.common_mean[shared]), rotate.T @ X
        covariance = sigma**2 * np.eye(len(y)) + (columns * priors.common_sd[shared] ** 2) @ columns.T
        log_density.append(
            stats.multivariate_normal.logpdf(y, None, covariance) + priors.residual_sd.log_density(sigma)
        )
    density = np.exp(np.array(log_density) - max(log_density))
    mean = grid @ density / density.sum()
    sd = np.sqrt((grid - mean) ** 2 @ density / density.sum())
    assert max(density[0], density[-1]) < 1e-9 * density.max()
    sigma = posterior.variance_nodes().sigma
    assert posterior.weight @ sigma == pytest.approx(mean, abs=0.02 * sd)
    assert np.sqrt(posterior.weight @ (sigma - mean) ** 2) == pytest.approx(sd, rel=0.03)


def small_groups():
    """Five groups: one identifies intercept and slope, one has one value of x, two have one row, one has two rows."""
    codes = np.array([0, 0, 0, 0, 1, 1, 1, 2, 3, 4, 4])
    x = np.array([0.3, 1.7, -0.8, 2.2, 0.6, 0.6, 0.6, -1.1, 1.9, 0.2, 1.4])
    y = np.array([1.2, 3.9, -0.7, 5.1, 2.5, 2.8, 2.2, 0.4, 7.7, -1.0, 0.9])
    X = np.column_stack([np.ones(11), x])
    return Problem(X, X.copy(), codes, 5, y)


@pytest.fixture
def unidentified(rng):
    problem = small_groups()
    priors = make_priors(rng, problem)
    return problem, priors, no_pooling(problem, priors)


def test_groups_with_enough_rows_have_their_own_line(unidentified):
    problem, _, posterior = unidentified
    for group in (0, 4):
        rows = problem.codes == group
        line = np.linalg.lstsq(problem.X[rows], problem.y[rows])[0]
        x = np.array([[1.0, -3.0], [1.0, 0.0], [1.0, 10.0]])
        mean, variance = posterior.row_moments(x, [x], [np.full(3, group)])
        np.testing.assert_allclose(mean, x @ line, rtol=1e-8)
        sigma2 = posterior.weight @ posterior.variance_nodes().sigma ** 2
        wanted = sigma2 * np.einsum("ri,ij,rj->r", x, np.linalg.inv(problem.X[rows].T @ problem.X[rows]), x)
        np.testing.assert_allclose(variance, wanted, rtol=1e-8)


@pytest.mark.parametrize("repeat", [1, 4], ids=["through the mixture", "through moments of groups"])
@pytest.mark.parametrize(("group", "place", "level"), [(1, 0.6, 2.5), (2, -1.1, 0.4), (3, 1.9, 7.7)])
def test_rows_where_a_group_has_rows_are_identified_and_no_others(unidentified, repeat, group, place, level):
    _, _, posterior = unidentified
    x = np.tile([[1.0, place], [1.0, place + 1.0], [2.0, 2 * place]], (repeat, 1))
    mean, variance = posterior.row_moments(x, [x], [np.full(len(x), group)])
    np.testing.assert_allclose(mean[[0, 2]], [level, 2 * level], rtol=1e-8)
    assert np.all(np.isfinite(variance[[0, 2]]))
    assert variance[2] == pytest.approx(4 * variance[0])
    assert np.isinf(variance[1])


@pytest.mark.parametrize("repeat", [1, 4], ids=["through the mixture", "through moments of groups"])
def test_a_column_that_is_zero_in_a_whole_group_harms_no_row_without_it(rng, repeat):
    # as the homes of a county that has no basement
    problem = small_groups()
    X = problem.X.copy()
    X[problem.codes == 1, 1] = 0.0
    problem = dense.replace(problem, X=X, Z=X.copy())
    posterior = no_pooling(problem, make_priors(rng, problem))
    x = np.tile([[1.0, 0.0], [1.0, 1.0]], (repeat, 1))
    mean, variance = posterior.row_moments(x, [x], [np.full(len(x), 1)])
    assert mean[0] == pytest.approx(2.5)
    assert variance[0] == pytest.approx(posterior.weight @ posterior.variance_nodes().sigma ** 2 / 3, rel=1e-8)
    assert np.isinf(variance[1])


def test_an_unseen_direction_has_the_value_of_complete_pooling(unidentified):
    _, _, posterior = unidentified
    seen = posterior.scaling.varying(np.array([[1.0, 1.9]]))[0]
    to_engine = posterior.scaling.varying(np.eye(2))
    z = np.linalg.solve(to_engine.T, [-seen[1], seen[0]])[None]  # orthogonal to (1, 1.9) in the columns of the engine
    mean, _ = posterior.row_moments(z, [z], [np.array([3])])
    assert mean[0] == pytest.approx(float(z[0] @ posterior.new.common_moments()[0]), rel=1e-6)


def test_new_groups_get_the_complete_pooling_answer(unidentified):
    problem, priors, posterior = unidentified
    bare = dense.collect(dense.Design(problem.X, []), None, 0, problem.y, has_intercept=True)
    complete = fit_marginal(bare, dense.replace(priors, group_sd=[], blocks=(), lkj_eta=())).posterior
    x = np.array([[1.0, 0.4], [1.0, -2.0], [1.0, 3.3]])
    codes = np.array([5, 0, 6])
    wanted = complete.row_moments(x, [], [])
    for repeat in (1, 4):
        rows = np.tile(x, (repeat, 1)), [np.tile(x, (repeat, 1))], [np.tile(codes, repeat)]
        mean, variance = posterior.row_moments(*rows)
        np.testing.assert_allclose(mean[[0, 2]], wanted[0][[0, 2]], rtol=1e-10)
        np.testing.assert_allclose(variance[[0, 2]], wanted[1][[0, 2]], rtol=1e-10)
        mixed = posterior.row_mixture(*rows)
        np.testing.assert_allclose(mixed.moments()[0], mean, rtol=1e-9)
        np.testing.assert_allclose(mixed.moments()[1], variance, rtol=1e-9)
    np.testing.assert_allclose(posterior.new.sigma, complete.sigma, rtol=1e-12)


def test_group_moments_and_shrinkage_tell_what_is_identified(unidentified):
    _, _, posterior = unidentified
    moments, shrinkage = posterior.group_moments(), posterior.shrinkage()
    np.testing.assert_array_equal(shrinkage[[0, 4]], 1.0)
    np.testing.assert_array_equal(shrinkage[[1, 2, 3]], 0.0)
    variances = np.einsum("jkk->jk", moments.covariance)
    assert np.all(np.isfinite(variances[[0, 4]]))
    assert np.all(np.isinf(variances[[1, 2, 3]]))
    assert np.all(np.isfinite(moments.mean))


def test_variance_parameters_are_infinite(unidentified):
    _, _, posterior = unidentified
    nodes = posterior.variance_nodes()
    assert np.all(np.isinf(nodes.group_sd[0]))
    assert np.all(np.isfinite(nodes.sigma))


def test_draws_of_rows_follow_their_moments(unidentified, rng):
    _, _, posterior = unidentified
    x = np.array([[1.0, 1.0], [1.0, -0.5], [1.0, 0.4], [1.0, 0.4], [1.0, 0.4]])
    codes = np.array([0, 4, 5, 6, 5])
    draws, sigma = posterior.row_draws(x, [x], [codes], 40_000, rng)
    mean, variance = posterior.row_moments(x, [x], [codes])
    # the posterior of sigma on so few rows has long tails: quantiles would be better, means of many draws do
    np.testing.assert_allclose((draws.mean(axis=0) - mean) / np.sqrt(variance), 0.0, atol=0.05)
    np.testing.assert_allclose(draws.std(axis=0) / np.sqrt(variance), 1.0, atol=0.1)
    np.testing.assert_array_equal(draws[:, 2], draws[:, 4])
    assert sigma.shape == draws.shape
    mean_square = np.mean(sigma**2, axis=0)
    nodes = posterior.row_sigma([codes]) ** 2
    np.testing.assert_allclose(mean_square, posterior.weight @ nodes, rtol=0.1)


def test_group_level_columns_belong_to_the_groups(rng):
    problem = big_groups(rng, 1)
    level = rng.normal(size=4)[problem.codes]
    wider = dense.replace(problem, X=np.column_stack([problem.X, level]))
    priors = make_priors(rng, wider)
    narrow = dense.replace(priors, common_mean=priors.common_mean[:4], common_sd=priors.common_sd[:4])
    found, wanted = no_pooling(wider, priors), no_pooling(problem, narrow)
    np.testing.assert_allclose(
        found.row_moments(wider.X, [wider.Z], [wider.codes]),
        wanted.row_moments(problem.X, [problem.Z], [problem.codes]),
        rtol=1e-8,
    )


@pytest.mark.parametrize(
    ("formula", "absorbed"),
    [
        ("x + u + c + (1 | g)", ["Intercept", "u"]),
        ("x + u + (x | g)", ["Intercept", "x", "u"]),
        ("0 + x + (1 | g)", []),
        ("0 + x + w + (0 + x | g)", ["x"]),
        ("x + w + (0 + x | g)", ["x"]),
        ("x + u + w + (0 + x + w | g)", ["x", "w"]),
        ("0 + level + w + (1 | g)", ["level[a]", "level[b]", "level[c]"]),
    ],
)
def test_summaries_claim_no_certainty_of_what_groups_absorb(rng, formula, absorbed):
    # Such a coefficient stands at its complete-pooling value at every node: an sd of zero would be no posterior's.
    codes = np.repeat(np.arange(6), 5)
    X = pd.DataFrame({"g": codes, "x": 2.0 + rng.normal(size=30), "w": rng.normal(size=30), "c": 3.0})
    X["u"], X["level"] = rng.normal(size=6)[codes], list("abc" * 10)
    y = 1.0 + 0.8 * X["x"] + X["u"] + rng.normal(size=30)
    none = PartialPoolingRegressor(formula, pooling="none").fit(X, y)
    complete = PartialPoolingRegressor(formula, pooling="complete").fit(X, y)
    table, diagnostics = none.summary(diagnostics=True), none.diagnostics_
    unknown = ["sd", "eti95_lb", "eti95_ub", "equivalent_draws", "equivalent_draws_tail", "mcse_mean"]
    assert table["sd"].index[table["sd"].isna()].tolist() == absorbed
    assert table.loc[absorbed, unknown].isna().all(axis=None)
    assert diagnostics.loc[absorbed, ["ess_bulk", "ess_tail", "mcse_mean"]].isna().all(axis=None)
    kept = table.index.difference([*absorbed, "c"])
    assert table.loc[kept, unknown].notna().all(axis=None)
    assert (table.loc[kept, "sd"] > 0.01).all()
    # of levels that together are the intercept one stands there, and what lies between them is known
    slopes = [name for name in absorbed if name not in ("Intercept", "level[a]", "level[b]")]
    np.testing.assert_allclose(table.loc[slopes, "mean"], complete.summary().loc[slopes, "mean"], rtol=1e-6)
    # a constant column is left out of every model, with coefficient 0
    if "c" in table.index:
        assert table.loc["c", ["mean", "sd"]].tolist() == [0.0, 0.0]


def test_each_row_a_group_of_its_own(rng):
    problem = make_problem(rng, q=1, p=2, n_rows=9)
    problem = dense.replace(problem, codes=np.arange(9), n_groups=9)
    posterior = no_pooling(problem, make_priors(rng, problem))
    mean, variance = posterior.row_moments(problem.X, [problem.Z], [problem.codes])
    np.testing.assert_allclose(mean, problem.y, rtol=1e-9)
    # nothing is left to tell sigma by, so its prior speaks
    assert np.all(np.isfinite(variance))
    assert np.all(variance > 0)


@pytest.mark.parametrize("errors", [False, True])
@pytest.mark.parametrize(("varying", "free"), [([1], [1]), ([1, 2], [1, 2]), ([0], [0]), ([0, 2], [0, 2])])
def test_coefficients_given_those_that_groups_absorb(rng, varying, free, errors):
    # intercept, x, w and v, of which raw columns vary: what is free stands at its complete-pooling value
    n = 60
    X = np.column_stack([np.ones(n), 4 + 2 * rng.normal(size=n), -3 + rng.normal(size=n), 1 + rng.normal(size=n)])
    codes, Z = np.repeat(np.arange(6), 10), X[:, varying]
    y = X @ [1, 0.5, -0.3, 0.2] + rng.normal(size=n) + rng.normal(size=6)[codes] * X[:, 1]
    problem = Problem(X, Z, codes, 6, y, None, rng.uniform(0.3, 1.4, n) if errors else None, True)
    priors = make_priors(rng, problem, residual_sd=0.9)
    posterior = no_pooling(problem, priors)

    columns, precision = problem.centred(), np.diag(priors.common_sd**-2.0)
    weight = (problem.standard_error if errors else np.full(n, 0.9)) ** -2.0
    information = columns.T @ (weight[:, None] * columns) + precision
    complete = np.linalg.solve(information, columns.T @ (weight * y) + precision @ priors.common_mean)
    shared = np.setdiff1d(np.arange(4), free)
    H = np.column_stack([columns[:, shared], *(z * (codes == j) for j in range(6) for z in Z.T)])
    information = H.T @ (weight[:, None] * H)
    information[: len(shared), : len(shared)] += precision[np.ix_(shared, shared)]
    moment = H.T @ (weight * (y - columns[:, free] @ complete[free]))
    moment[: len(shared)] += (precision @ priors.common_mean)[shared]
    covariance = np.zeros((4, 4))
    covariance[np.ix_(shared, shared)] = np.linalg.inv(information)[: len(shared), : len(shared)]
    coefficients = complete.copy()
    coefficients[shared] = np.linalg.solve(information, moment)[: len(shared)]
    raw = np.eye(4)
    raw[0, 1:] = -X[:, 1:].mean(axis=0)

    mean, sd = posterior.common_mixture()
    average = posterior.weight @ mean
    np.testing.assert_allclose(average, raw @ coefficients, rtol=1e-8, atol=1e-9)
    found = np.sqrt(posterior.weight @ (sd**2 + (mean - average) ** 2))
    known = ~np.isnan(found)
    np.testing.assert_array_equal(known, ~np.isin(np.arange(4), free))
    np.testing.assert_allclose(found[known], np.sqrt(np.diag(raw @ covariance @ raw.T))[known], rtol=1e-8)


def test_lines_of_groups_do_not_hang_on_where_a_column_begins(rng):
    g = np.repeat(np.arange(8), 12)
    t = rng.normal(size=96)
    y = pd.Series(3 + (1 + rng.normal(size=8))[g] * t + rng.normal(size=96))
    said = [
        PartialPoolingRegressor("t + (t | g)", pooling="none").fit(frame, y).predict(frame)
        for frame in (pd.DataFrame({"t": t + start, "g": g}) for start in (0.0, 1e5, 3e5))
    ]
    np.testing.assert_allclose(said[1], said[0], atol=1e-3)
    np.testing.assert_allclose(said[2], said[0], atol=1e-2)


def test_absorbed_directions_are_those_that_nothing_is_left_of(rng):
    # columns: intercept, x and w less their means, as the engine has them; slopes of raw columns vary
    n, codes = 400, np.repeat(np.arange(20), 20)
    x, w = 3.0 + rng.normal(size=n), 1e4 * rng.normal(size=n)
    X = np.column_stack([np.ones(n), x - x.mean(), w - w.mean()])

    def left_of(Z):
        residual = X.copy()
        for j in range(20):
            at = codes == j
            residual[at] -= Z[at] @ np.linalg.lstsq(Z[at], X[at])[0]
        return residual.T @ residual

    for Z, wanted in (
        (x[:, None], [[x.mean(), 1.0, 0.0]]),
        (w[:, None], [[w.mean(), 0.0, 1.0]]),
        (np.column_stack([x, w]), [[x.mean(), 1.0, 0.0], [w.mean(), 0.0, 1.0]]),
        (np.ones((n, 1)), [[1.0, 0.0, 0.0]]),
        (np.column_stack([np.ones(n), w]), [[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]),
        (rng.normal(size=(n, 1)), np.empty((0, 3))),
    ):
        directions, free = absorbed_directions(left_of(Z), X.T @ X)
        np.testing.assert_allclose(directions[free], np.eye(len(wanted)), atol=1e-12)
        order = np.argsort(free)
        np.testing.assert_allclose(directions.T[order], wanted, rtol=1e-6, atol=1e-6)


def test_pseudo_inverses(rng):
    roots = rng.normal(size=(5, 3, 3))
    roots[1, 1:] = 0.0
    roots[2] = 0.0
    roots[3, 2] = roots[3, 0]
    zz = np.einsum("jki,jkl->ilj", roots, roots)
    inverse, identified, rank = pseudo_inverses(zz)
    assert list(rank) == [3, 1, 0, 2, 3]
    for j in range(5):
        wanted = np.linalg.pinv(zz[:, :, j], rcond=1e-10, hermitian=True)
        np.testing.assert_allclose(inverse[:, :, j], wanted, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(identified[j], wanted @ zz[:, :, j], atol=1e-8)


def test_a_fixed_residual_sd_and_known_errors_leave_sigma_alone(rng):
    problem = big_groups(rng, 1)
    posterior = no_pooling(problem, make_priors(rng, problem, residual_sd=0.7))
    np.testing.assert_allclose(posterior.variance_nodes().sigma, 0.7, rtol=1e-12)
    with_uniform = make_priors(rng, problem, residual_sd=SdPrior("Uniform", {"lower": 0.5, "upper": 0.6}))
    sigma = no_pooling(problem, with_uniform).variance_nodes().sigma
    assert np.all((sigma >= 0.5) & (sigma <= 0.6))


def test_new_groups_beside_known_ones_under_a_bounded_prior(rng):
    # sigma is then a coordinate of theta, and nodes have weights of their own in the two parts of the posterior
    problem = big_groups(rng, 1)
    priors = make_priors(rng, problem, residual_sd=SdPrior("Uniform", {"lower": 0.1, "upper": 40.0}))
    posterior = no_pooling(problem, priors)
    x = problem.X[:6]
    for codes in (np.array([0, 4, 1, 5, 2, 4]), np.array([4, 4, 4, 5, 6, 4])):
        rows = x, [problem.Z[:6]], [codes]
        mixed = posterior.row_mixture(*rows)
        moments = posterior.row_moments(*rows)
        # the mixture may be resampled to equal weights
        scale = np.sqrt(moments[1])
        np.testing.assert_allclose(mixed.moments()[0] / scale, moments[0] / scale, atol=0.02)
        np.testing.assert_allclose(mixed.moments()[1], moments[1], rtol=0.05)
    bare = dense.collect(dense.Design(problem.X, []), None, 0, problem.y, has_intercept=True)
    complete = fit_marginal(bare, dense.replace(priors, group_sd=[], blocks=(), lkj_eta=())).posterior
    wanted = complete.row_moments(x[:1], [], [])
    found = posterior.row_moments(x[:1], [problem.Z[:1]], [np.array([4])])
    np.testing.assert_allclose(found[0], wanted[0], atol=0.02 * np.sqrt(wanted[1][0]))
    np.testing.assert_allclose(found[1], wanted[1], rtol=0.05)


# ---------------------------------------------------------------------------------------------------------------------
# What a group does not identify, everywhere the same


def unidentified_frame():
    """Groups a to e: a line, one place, one row, two rows, a line; and a column of group level."""
    rng = np.random.default_rng(11)
    group = np.repeat(list("abcde"), [5, 3, 1, 2, 4])
    frame = pd.DataFrame({"g": group, "x": rng.normal(size=15).round(2), "shared": rng.normal(size=15).round(2)})
    frame.loc[frame["g"] == "b", "x"] = 0.5
    frame["level"] = frame["g"].map({"a": 1.0, "b": 2.5, "c": -1.0, "d": 0.5, "e": 0.0})
    return frame, 3 + frame["x"] + rng.normal(size=15)


def identified_by_rank(formula_columns, frame, new):
    """Tell by the rank of the whole design, with a block for each group, which new rows it spans."""

    def design(rows):
        common = np.column_stack([np.ones(len(rows)), *(rows[c] for c in ("x", "shared", "level"))])
        varying = np.column_stack([np.ones(len(rows)), *(rows[c] for c in formula_columns)])
        blocks = [varying * (rows["g"] == g).to_numpy()[:, None] for g in "abcde"]
        return np.column_stack([common, *blocks])

    A, B = design(frame), design(new)
    projection = np.linalg.pinv(A, rcond=1e-10) @ A
    return np.abs(B @ projection - B).max(axis=1) < 1e-8


@pytest.mark.parametrize("varying", [(), ("x",)])
def test_unidentified_rows_are_the_same_in_all_answers(varying):

    frame, y = unidentified_frame()
    model = PartialPoolingRegressor(group_features="g", slope_features=list(varying) or None, pooling="none").fit(
        frame, y
    )
    rng = np.random.default_rng(3)
    new = pd.concat([frame, frame.iloc[rng.integers(0, 15, 30)]], ignore_index=True)
    new.loc[15:25, "x"] += 1.0
    new.loc[22:34, "level"] += 1.0
    new.loc[30:40, "shared"] += 1.0
    known = identified_by_rank(varying, frame, new)
    assert known[:15].all()
    assert 5 < np.count_nonzero(~known) < 30
    mean, std = model.predict(new, return_std=True)
    assert np.isfinite(mean).all()
    np.testing.assert_array_equal(np.isfinite(std), known)
    for kind in ("mean", "prediction"):
        interval = model.predict_interval(new, kind=kind)
        np.testing.assert_array_equal(np.isfinite(interval).all(axis=1), known)
        np.testing.assert_array_equal(interval[~known], np.tile([-np.inf, np.inf], (np.count_nonzero(~known), 1)))
    draws = model.sample_y(new, n_samples=4, random_state=0)
    np.testing.assert_array_equal(np.isfinite(draws), np.repeat(known[:, None], 4, axis=1))
    np.testing.assert_array_equal(np.isnan(draws), ~np.repeat(known[:, None], 4, axis=1))
    tree = model.to_datatree(new, np.zeros(len(new)), draws=5)
    for group in ("posterior_predictive", "log_likelihood"):
        values = tree[group]["y"].to_numpy()
        np.testing.assert_array_equal(np.isnan(values).all(axis=(0, 1)), ~known)
        np.testing.assert_array_equal(np.isnan(values).any(axis=(0, 1)), ~known)
    table = model.group_effects_.pivot(index="group", columns="term", values="sd")
    for term in table.columns:
        values = tree["posterior"][term].to_numpy()
        np.testing.assert_array_equal(np.isnan(values).any(axis=(0, 1)), np.isinf(table[term]))
    with pytest.raises(ValueError, match=r"do not identify \(groups .*leave these rows out, or use pooling='partial'"):
        posterior_predictive_check(model, new, np.zeros(len(new)), n_samples=5)
    check = posterior_predictive_check(model, frame, y, n_samples=20, random_state=0)
    assert check.p_value.between(0, 1).all()
