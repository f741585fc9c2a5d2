"""Several grouping factors in the marginal engine, against dense twins that know of no factors, levels or sums."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.linalg import block_diag
from scipy.stats import multivariate_normal

from hbsk._engine import crossed_maps, crossed_passes, crossed_propriety
from hbsk._engine.crossed import crossed_model, integrate_crossed, quasi_newton_mode
from hbsk._engine.crossed_passes import CrossedPasses
from hbsk._engine.crossed_propriety import crossed_tails
from hbsk._engine.crossed_sums import collect_pairs, merge_pairs
from hbsk._engine.fit import marginal_model
from hbsk._engine.priors import EnginePriors
from hbsk._engine.sd_prior import SdPrior
from hbsk._engine.sums import collect
from tests.stand_ins import Design

DESIGNS = [
    ((12, 7), (1, 1), False),
    ((9, 6), (2, 2), False),
    ((6, 15, 4), (2, 1, 1), False),
    ((15, 6, 4), (2, 1, 3), False),
    ((5, 20), (1, 1), True),
]


class Rows:
    """Rows of several factors; the first column of each factor's varying columns is 1."""

    def __init__(self, n_levels, n_varying, *, nested=False, n=90, seed=1, weights=False, errors=False):
        rng = np.random.default_rng(seed)
        self.codes = [rng.integers(0, levels, n) for levels in n_levels]
        for code, levels in zip(self.codes, n_levels, strict=True):
            code[:levels] = np.arange(levels)
        if nested:
            self.codes[0] = self.codes[1] % n_levels[0]
        self.n_groups = list(n_levels)
        features = rng.normal(3.0, 2.0, size=(n, 2))
        self.X = np.column_stack([np.ones(n), features])
        self.Z = [self.X[:, :q].copy() for q in n_varying]
        effects = [rng.normal(size=(levels, q)) for levels, q in zip(n_levels, n_varying, strict=True)]
        self.y = 5.0 + features[:, 0] + rng.normal(size=n)
        for z, code, effect in zip(self.Z, self.codes, effects, strict=True):
            self.y += np.sum(z * effect[code], axis=1)
        self.weight = rng.integers(1, 4, n).astype(float) if weights else None
        self.error = rng.uniform(0.5, 2.0, n) if errors else None

    def collect(self, rows=slice(None)):
        design = Design(self.X[rows], [z[rows] for z in self.Z])
        weight = None if self.weight is None else self.weight[rows]
        error = None if self.error is None else self.error[rows]
        parts = [
            collect(
                design, code[rows], levels, self.y[rows], has_intercept=True, factor=f, sample_weight=weight,
                standard_error=error, varying_intercept=0,
            )
            for f, (code, levels) in enumerate(zip(self.codes, self.n_groups, strict=True))
        ]  # fmt: skip
        precision = weight if error is None else (1.0 if weight is None else weight) / error**2
        centres = [part.z_centre for part in parts]
        return parts, collect_pairs(design, [code[rows] for code in self.codes], self.n_groups, centres, precision)

    def priors(self, sd=None):
        q = [z.shape[1] for z in self.Z]
        ends = np.cumsum([0, *q])
        sd = SdPrior("HalfNormal", {"sigma": 2.0}) if sd is None else sd
        return EnginePriors(
            common_mean=np.array([4.0, 0.0, 0.0]),
            common_sd=np.array([10.0, 3.0, np.inf]),
            residual_sd=None if self.error is not None else SdPrior("HalfStudentT", {"nu": 4.0, "sigma": 2.0}),
            group_sd=[sd] * sum(q),
            blocks=tuple(tuple(range(start, stop)) for start, stop in pairwise(ends)),
            lkj_eta=(1.5,) * len(q),
            group_mean=np.zeros(sum(q)),
            centre=np.concatenate([[0.0] * size for size in q]),
        )

    def model(self, sd=None):
        return crossed_model(*self.collect(), self.priors(sd))


def assert_gradient_equals_differences(model, theta, tolerance):
    """Differentiate the log density at each theta; `tolerance` is a share of the largest derivative there."""
    _, gradient = model.value_and_gradient(theta)
    step = 1e-5
    for m, point in enumerate(theta):
        ends = np.array([[point + step * e, point - step * e] for e in np.eye(len(point))]).reshape(-1, len(point))
        above, below = model.evaluate(ends).log_density.reshape(-1, 2).T
        np.testing.assert_allclose(
            gradient[m], (above - below) / (2 * step), atol=tolerance * np.abs(gradient[m]).max()
        )


def random_points(model, n=3, seed=0):
    theta = 0.7 * np.random.default_rng(seed).normal(size=(n, model.parameters.n_dim))
    return theta, model.parameters.points(theta)


def dense_columns(rows, scalings):
    """Indicator columns of all effects, in the engine's units, and the common columns and y."""
    blocks = []
    for z, code, levels, scaling in zip(rows.Z, rows.codes, rows.n_groups, scalings, strict=True):
        scaled = scaling.varying(z)
        block = np.zeros((len(z), levels * z.shape[1]))
        for k in range(z.shape[1]):
            block[np.arange(len(z)), code * z.shape[1] + k] = scaled[:, k]
        blocks.append(block)
    y = (rows.y - scalings[0].y_centre) / scalings[0].y_scale
    return np.hstack(blocks), scalings[0].common(rows.X, True), y


def dense_lambda(rows, factor, columns):
    return block_diag(*(np.kron(np.eye(n), factor[at, at]) for n, at in zip(rows.n_groups, columns, strict=True)))


@pytest.mark.parametrize(("n_levels", "n_varying", "nested"), DESIGNS)
def test_density_equals_that_of_an_n_by_n_normal(n_levels, n_varying, nested):
    rows = Rows(n_levels, n_varying, nested=nested)
    model, scalings = rows.model()
    model.prior_precision = np.where(model.prior_precision > 0, model.prior_precision, 0.3)
    _, points = random_points(model)
    sigma = np.array([0.7, 1.0, 1.3])
    ours = model.log_marginal_likelihood(points.relative_factor, sigma)
    Z, X, y = dense_columns(rows, scalings)
    for m in range(3):
        scaled = Z @ dense_lambda(rows, points.relative_factor[m], model.sums.columns)
        law = sigma[m] ** 2 * (np.eye(len(y)) + scaled @ scaled.T) + X @ np.diag(1 / model.prior_precision) @ X.T
        dense = multivariate_normal.logpdf(y, X @ model.prior_mean, law)
        assert abs(ours[m] - dense) < 1e-10 * abs(dense)


@pytest.mark.parametrize(("n_levels", "n_varying", "nested"), DESIGNS)
def test_points_together_are_points_one_by_one(n_levels, n_varying, nested, monkeypatch):
    model, _ = Rows(n_levels, n_varying, nested=nested).model()
    theta, points = random_points(model, 7)
    log_det, reduced = model.passes.reduce(points.relative_factor)
    value, gradient = model.value_and_gradient(theta)
    monkeypatch.setattr(crossed_passes, "FEW_REMAINING", 0)
    for m, factor in enumerate(points.relative_factor):
        alone = model.passes.reduce(factor[None])
        np.testing.assert_allclose(log_det[m], alone[0][0], rtol=1e-12)
        np.testing.assert_allclose(reduced[m], alone[1][0], rtol=1e-10, atol=1e-12)
        of_one, gradient_of_one = model.value_and_gradient(theta[m : m + 1])
        np.testing.assert_allclose(value[m], of_one[0], rtol=1e-10)
        np.testing.assert_allclose(gradient[m], gradient_of_one[0], rtol=1e-9, atol=1e-9)


def test_a_point_beyond_floating_point_spoils_no_other():
    model, _ = Rows((12, 7), (1, 1)).model()
    factor = np.eye(2) * np.array([0.5, 1e200, 2.0])[:, None, None]
    with np.errstate(all="ignore"):
        log_det, reduced = model.passes.reduce(factor)
    assert np.isfinite(log_det).tolist() == [True, False, True]
    np.testing.assert_array_equal(np.isnan(reduced).all(axis=(1, 2)), [False, True, False])
    np.testing.assert_allclose(log_det[2], model.passes.reduce(factor[2:])[0][0], rtol=1e-13)


@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize(("n_levels", "n_varying", "nested"), DESIGNS)
def test_gradient_equals_differences(n_levels, n_varying, nested, fixed):
    model, _ = Rows(n_levels, n_varying, nested=nested).model(0.8 if fixed else None)
    assert_gradient_equals_differences(model, random_points(model)[0], tolerance=2e-7)


@pytest.mark.parametrize("kind", ["SmallMap", "SparseMap", "DenseMap"])
@pytest.mark.parametrize(("n_levels", "n_varying", "nested"), DESIGNS)
def test_every_way_to_products_has_the_same_reductions_and_gradients(n_levels, n_varying, nested, kind, monkeypatch):
    model, _ = Rows(n_levels, n_varying, nested=nested).model()
    _, points = random_points(model, 3)
    factor, adjoint = points.relative_factor, np.random.default_rng(0).normal(size=(3, 4, 4))
    adjoint = adjoint @ adjoint.swapaxes(1, 2)
    log_det, reduced = model.passes.reduce(factor)
    gradient = model.passes.factor_gradient(factor, adjoint)
    use_map(kind, monkeypatch)
    passes = CrossedPasses(model.sums)
    assert type(passes._map).__name__ == kind
    found = passes.reduce(factor)
    np.testing.assert_allclose(found[0], log_det, rtol=1e-12)
    np.testing.assert_allclose(found[1], reduced, atol=1e-11 * np.abs(reduced).max())
    np.testing.assert_allclose(passes.factor_gradient(factor, adjoint), gradient, atol=1e-11 * np.abs(gradient).max())


def use_map(kind, monkeypatch):
    """Have one of the maps of `crossed_maps` used, whatever the sizes."""
    monkeypatch.setattr(crossed_maps, "SMALL_NUMBERS", np.inf if kind == "SmallMap" else 0)
    monkeypatch.setattr(crossed_maps, "MOST_ENTRIES", np.inf if kind == "SparseMap" else 0)
    monkeypatch.setattr(crossed_maps, "DENSE_NUMBERS", 100)


@pytest.mark.parametrize("kind", ["SmallMap", "SparseMap", "DenseMap"])
@pytest.mark.parametrize(("n_levels", "n_varying", "nested"), DESIGNS)
def test_every_covariance_block_equals_the_dense_inverse(n_levels, n_varying, nested, kind, monkeypatch):
    use_map(kind, monkeypatch)
    rows = Rows(n_levels, n_varying, nested=nested)
    model, scalings = rows.model()
    _, points = random_points(model)
    factor, passes = points.relative_factor[0], CrossedPasses(model.sums)
    Z, X, y = dense_columns(rows, scalings)
    scaled = dense_lambda(rows, factor, model.sums.columns)
    phi = scaled @ np.linalg.inv(np.eye(len(scaled)) + scaled.T @ Z.T @ Z @ scaled) @ scaled.T
    solved = phi @ Z.T @ np.column_stack([X, y])
    sizes = [n * q for n, q in zip(n_levels, n_varying, strict=True)]
    starts = np.cumsum([0, *sizes])
    at = [np.arange(starts[f], starts[f + 1]) for f in passes.order]
    rest, zero = np.concatenate(at[1:]), at[0]
    effects = passes.effects(factor)
    np.testing.assert_allclose(effects.rest_phi, phi[np.ix_(rest, rest)], atol=1e-12)
    np.testing.assert_allclose(effects.rest_solved, solved[rest], atol=1e-11)
    q = n_varying[passes.order[0]]
    np.testing.assert_allclose(effects.first_solved.reshape(-1, X.shape[1] + 1), solved[zero], atol=1e-11)
    between = -effects.first @ passes.across(effects.rest_phi)
    np.testing.assert_allclose(between.reshape(len(zero), -1), phi[np.ix_(zero, rest)], atol=1e-12)
    for j, block in enumerate(effects.first_phi):
        own = zero[j * q : (j + 1) * q]
        np.testing.assert_allclose(block, phi[np.ix_(own, own)], atol=1e-12)


@pytest.mark.parametrize(("n_levels", "n_varying", "nested"), DESIGNS)
def test_what_no_effects_explain_is_that_of_least_squares(n_levels, n_varying, nested):
    rows = Rows(n_levels, n_varying, nested=nested)
    model, scalings = rows.model()
    Z, X, y = dense_columns(rows, scalings)
    columns = np.column_stack([X, y])
    left = columns - Z @ np.linalg.lstsq(Z, columns)[0]
    np.testing.assert_allclose(CrossedPasses(model.sums).within, left.T @ left, atol=1e-11)
    everything = np.hstack([Z, X])
    unexplained = y - everything @ np.linalg.lstsq(everything, y)[0]
    assert model._least_residual == pytest.approx(unexplained @ unexplained, rel=1e-7)


def test_a_second_factor_that_is_switched_off_or_has_one_level_and_no_sd_is_no_factor():
    rows = Rows((12, 1), (2, 1))
    model, _ = rows.model()
    priors = rows.priors()
    one = EnginePriors(
        priors.common_mean, priors.common_sd, priors.residual_sd, priors.group_sd[:2], ((0, 1),), (1.5,),
        np.zeros(2), np.zeros(2),
    )  # fmt: skip
    alone, _ = marginal_model(rows.collect()[0][0], one)
    _, points = random_points(alone)
    both = np.zeros((3, 3, 3))
    both[:, :2, :2] = points.relative_factor
    both[:, 2, 2] = 1e-9
    sigma = np.array([0.4, 1.0, 2.0])
    expected = alone.log_marginal_likelihood(points.relative_factor, sigma)
    np.testing.assert_allclose(model.log_marginal_likelihood(both, sigma), expected, rtol=1e-10)


def permuted(rows, order, seed=3):
    """The same rows with factors in another order and levels numbered anew."""
    rng = np.random.default_rng(seed)
    other = Rows.__new__(Rows)
    other.__dict__ = dict(rows.__dict__)
    renamed = [rng.permutation(n)[code] for n, code in zip(rows.n_groups, rows.codes, strict=True)]
    other.codes, other.n_groups = [renamed[f] for f in order], [rows.n_groups[f] for f in order]
    other.Z = [rows.Z[f] for f in order]
    return other


def test_order_and_names_of_levels_and_factors_change_nothing():
    rows = Rows((15, 6, 4), (2, 1, 3))
    order = [2, 0, 1]
    model, _ = rows.model()
    other, _ = permuted(rows, order).model()
    _, points = random_points(model)
    columns = np.concatenate([np.arange(at.start, at.stop) for at in [model.sums.columns[f] for f in order]])
    factor = points.relative_factor[:, columns][:, :, columns]
    sigma = np.array([0.4, 1.0, 2.0])
    expected = model.log_marginal_likelihood(points.relative_factor, sigma)
    np.testing.assert_allclose(other.log_marginal_likelihood(factor, sigma), expected, rtol=1e-9)


def test_pairs_are_additive_over_chunks_of_rows():
    rows = Rows((15, 6), (2, 2), weights=True)
    design, centres = Design(rows.X, rows.Z), [np.array([0.0, 1.0])] * 2
    (whole,) = collect_pairs(design, rows.codes, rows.n_groups, centres, rows.weight)
    parts = []
    for chunk in np.array_split(np.arange(90), [20, 21, 70]):
        design = Design(rows.X[chunk], [z[chunk] for z in rows.Z])
        codes = [code[chunk] for code in rows.codes]
        parts += collect_pairs(design, codes, rows.n_groups, centres, rows.weight[chunk])
    total = parts[0]
    for part in parts[1:]:
        total = merge_pairs(total, part)
    np.testing.assert_array_equal(total.first, whole.first)
    np.testing.assert_array_equal(total.second, whole.second)
    np.testing.assert_allclose(total.blocks, whole.blocks, rtol=1e-9)


@pytest.mark.parametrize("errors", [False, True])
def test_weights_are_copies_and_known_errors_are_weights(errors):
    rows = Rows((12, 7), (2, 1), weights=True, errors=errors)
    copied = Rows.__new__(Rows)
    copied.__dict__ = dict(rows.__dict__)
    again = np.repeat(np.arange(90), rows.weight.astype(int))
    copied.X, copied.y, copied.weight = rows.X[again], rows.y[again], None
    copied.Z, copied.codes = [z[again] for z in rows.Z], [code[again] for code in rows.codes]
    copied.error = rows.error[again] if errors else None
    model, scalings = rows.model()
    other, _ = copied.model()
    theta, _ = random_points(model)
    np.testing.assert_allclose(other.evaluate(theta).log_density, model.evaluate(theta).log_density, rtol=1e-10)
    if errors:
        model, _ = rows.model()
        model.prior_precision = np.where(model.prior_precision > 0, model.prior_precision, 0.3)
        _, points = random_points(model)
        Z, X, y = dense_columns(copied, scalings)
        scaled = Z @ dense_lambda(copied, points.relative_factor[0], model.sums.columns)
        law = np.diag((copied.error / scalings[0].y_scale) ** 2) + scaled @ scaled.T
        law += X @ np.diag(1 / model.prior_precision) @ X.T
        ours = model.log_marginal_likelihood(points.relative_factor[:1], np.ones(1))
        np.testing.assert_allclose(ours, multivariate_normal.logpdf(y, X @ model.prior_mean, law), rtol=1e-10)


def test_nodes_of_a_quadrature_on_a_grid_have_the_same_means_and_sds():
    model, _ = Rows((12, 7), (1, 1)).model()
    found = integrate_crossed(model, crossed_tails(model))
    grid = np.linspace(-5, 6, 90)
    theta = np.stack(np.meshgrid(grid, grid), axis=-1).reshape(-1, 2)
    points = model.evaluate(theta)
    weight = np.exp(points.log_density - points.log_density.max())
    weight /= weight.sum()

    def moments(points, weight):
        sigma = np.sum(points.weight * np.exp(points.log_sigma), axis=1)
        values = np.column_stack([sigma, sigma[:, None] * points.variance.relative_sd])
        mean = weight @ values
        return mean, np.sqrt(weight @ (values - mean) ** 2)

    mean, sd = moments(points, weight)
    ours, our_sd = moments(found.points, found.weight)
    assert found.reliable
    np.testing.assert_array_less(np.abs(ours - mean), 0.02 * sd)
    np.testing.assert_allclose(our_sd, sd, rtol=0.02)


def test_the_polynomial_of_a_few_nodes_has_the_sds_of_a_grid():
    rng = np.random.default_rng(2)
    rows = Rows((400, 310), (1, 1), n=2_000)
    rows.y = (
        rng.normal(size=2_000) + 0.6 * rng.normal(size=400)[rows.codes[0]] + 0.4 * rng.normal(size=310)[rows.codes[1]]
    )
    model, _ = rows.model()
    found = integrate_crossed(model, crossed_tails(model))
    assert len(found.weight) <= 64
    assert found.law is not None
    sample = found.law.sample
    centre, spread = sample.weight @ sample.theta, np.cov(sample.theta.T, aweights=sample.weight)
    steps = np.stack(np.meshgrid(*[np.linspace(-5, 5, 16)] * 2), axis=-1).reshape(-1, 2)
    points = model.evaluate(centre + steps @ np.linalg.cholesky(spread).T)
    weight = np.exp(points.log_density - points.log_density.max())[:, None] * points.weight
    weight /= weight.sum()
    relative = model.parameters.points(sample.theta).relative_sd
    grid, ours = np.exp(points.log_sigma), np.exp(sample.log_sigma)
    pairs = [(grid, ours)] + [(grid * points.variance.relative_sd[:, k, None], ours * relative[:, k]) for k in range(2)]
    for on_grid, of_sample in pairs:
        mean = np.sum(weight * on_grid)
        sd = np.sqrt(np.sum(weight * (on_grid - mean) ** 2))
        our_mean = sample.weight @ of_sample
        assert abs(our_mean - mean) < 0.02 * sd
        assert np.sqrt(sample.weight @ (of_sample - our_mean) ** 2) == pytest.approx(sd, rel=0.01)


@pytest.mark.parametrize("columns", [(0,), (0, 2), (0, 1, 2), (2, 3), (0, 1, 2, 3, 4, 5)])
@pytest.mark.parametrize("nested", [False, True])
def test_contrasts_that_inform_sds_are_counted_as_by_a_dense_rank(columns, nested):
    rows = Rows((5, 20, 2), (2, 1, 3), nested=nested)
    model, scalings = rows.model()
    flat = np.array([True, False, True])
    Z, X, _ = dense_columns(rows, scalings)
    wanted = np.concatenate(
        [np.tile(np.arange(at.start, at.stop), n) for n, at in zip(rows.n_groups, model.sums.columns, strict=True)]
    )
    together = np.hstack([X[:, flat], Z[:, np.isin(wanted, columns)]])
    rank = np.linalg.matrix_rank(together) - 2
    whitened = np.linalg.inv(np.linalg.cholesky(X[:, flat].T @ X[:, flat])).T
    assert crossed_propriety._n_informed(columns, model.sums, flat, whitened) == rank


def test_a_search_that_hardly_gains_ends():
    n_looks = 0

    def value_and_gradient(theta):  # a gradient that is none of the value, which gains at every tenth look
        nonlocal n_looks
        n_looks += 1
        return np.array([float(n_looks // 10)]), np.full_like(theta, 3.0)

    mode, precision = quasi_newton_mode(value_and_gradient, np.zeros(2), np.eye(2))
    assert n_looks < 120
    assert np.isfinite(mode).all()
    assert np.isfinite(precision).all()
