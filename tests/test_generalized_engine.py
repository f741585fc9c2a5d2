"""The parts of the engine of binary and count responses: integrals of groups, derivatives, cells, equivariance."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import expit

from hbsk._engine.generalized import cells as cells_module
from hbsk._engine.generalized import inner
from hbsk._engine.generalized.cells import collect_cells
from hbsk._engine.generalized.data import Responses, group_constants
from hbsk._engine.generalized.families import FAMILIES, excess
from hbsk._engine.generalized.fit import generalized_model
from hbsk._engine.generalized.inner import effect_moments, hermite_rule, integrate_groups, log_mean_exponential
from hbsk._engine.generalized.model import louis_derivatives
from hbsk._engine.generalized.own_estimates import own_estimates
from hbsk._engine.generalized.proposal import joint_proposals
from hbsk._engine.generalized.search import find_joint_mode
from hbsk._engine.generalized.working import working_model
from hbsk._engine.priors import EnginePriors
from hbsk._engine.sd_prior import SdPrior
from hbsk._posterior.generalized import fit_generalized
from hbsk._posterior.response import response_mean


def made_up(family="binomial", n_groups=12, n_rows=90, q=1, seed=3, trials=1):
    """Return responses with an intercept, a number and a flag, and priors for them."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(n_groups, size=n_rows)
    codes[:n_groups] = np.arange(n_groups)
    x = np.column_stack([np.ones(n_rows), rng.normal(3.0, 2.0, n_rows), rng.integers(2, size=n_rows)])
    z = x[:, [0, 2]][:, :q]
    effects = rng.normal(size=(n_groups, q)) * 0.8
    eta = x @ [-0.9, 0.3, 0.4] + np.sum(z * effects[codes], axis=1)
    if family == "binomial":
        size = np.full(n_rows, trials) if trials == 1 else rng.integers(1, trials, size=n_rows)
        y = rng.binomial(size, expit(eta)).astype(float)
    else:
        size = rng.uniform(0.3, 4.0, size=n_rows)
        y = rng.poisson(size * np.exp(eta)).astype(float)
    responses = Responses(family, y, size.astype(float), x, z, codes, n_groups, True, 0)
    group_sd = [SdPrior("HalfNormal", {"sigma": 1.7}), SdPrior("HalfStudentT", {"nu": 5.0, "sigma": 1.1})][:q]
    blocks, eta_of_lkj = (((0, 1),), (1.5,)) if q == 2 else ((), ())
    centre = np.array([0.0, 0.4])[:q]
    means, sds = np.array([-0.2, 0.1, 0.0]), np.array([1.5, 0.7, 1.0])
    return responses, EnginePriors(means, sds, None, group_sd, blocks, eta_of_lkj, centre=centre)


def answers(responses, priors):
    """Return everything that a posterior is asked for, as one array, and its posterior."""
    posterior = fit_generalized(responses, priors).posterior
    moments = posterior.group_moments()
    nodes = posterior.variance_nodes()
    common, covariance = posterior.common_moments()
    rows = (responses.x, [responses.z], [responses.codes])
    sds = posterior.weight @ nodes.group_sd[0]
    parts = (common, covariance, sds, moments.mean, moments.covariance, *posterior.row_moments(*rows))
    return np.concatenate([part.ravel() for part in parts]), posterior


@pytest.mark.parametrize(
    ("family", "y", "size", "base", "tau"),
    [
        ("binomial", 1.0, 1.0, 0.4, 2.5),
        ("binomial", 7.0, 20.0, -3.0, 0.6),
        ("binomial", 1e6, 1e6, 2.0, 1.5),
        ("poisson", 0.0, 3.0, 0.7, 1.2),
        ("poisson", 250.0, 0.02, 1.0, 4.0),
    ],
)
def test_integrals_of_groups_are_those_of_adaptive_quadrature(family, y, size, base, tau):
    cells = collect_cells(family, np.array([y]), np.array([size]), np.ones((1, 1)), np.ones((1, 1)), np.array([0]), 1)
    rule = hermite_rule(61, 1)
    factor = np.full((1, 1, 1), tau)
    found = integrate_groups(cells, np.full((1, 1), base), factor, np.zeros((1, 1, 1)), rule)
    responses = Responses(family, np.array([y]), np.array([size]), np.ones((1, 1)), np.ones((1, 1)), np.array([0]), 1)
    _, scaling = generalized_model(
        replace(responses, has_intercept=False), EnginePriors(np.zeros(1), np.ones(1), None, [1.0], (), ())
    )
    constant = group_constants(replace(responses, has_intercept=False), scaling)[0]

    def log_joint(z):
        eta = base + tau * z
        if family == "binomial":
            # scipy's own formula, at the complement where that is the smaller number
            log_y = (
                stats.binom.logpmf(size - y, size, expit(-eta))
                if y == size
                else stats.binom.logpmf(y, size, expit(eta))
            )
        else:
            log_y = stats.poisson.logpmf(y, size * np.exp(eta))
        return log_y + stats.norm.logpdf(z)

    grid = np.linspace(-9, 9, 200_001)
    top = grid[np.argmax(log_joint(grid))]
    height = log_joint(top)
    near = np.linspace(top - 12, top + 12, 400_001)
    density = np.exp(log_joint(near) - height)
    reach = near[density > 1e-18][[0, -1]]
    options = {"epsabs": 0, "epsrel": 1e-12, "limit": 500, "points": [top]}
    integral = [quad(lambda z, k=k: z**k * np.exp(log_joint(z) - height), *reach, **options)[0] for k in range(4)]
    value = found.log_integral[0, 0] + y * base + constant
    np.testing.assert_allclose(value, height + np.log(integral[0]), rtol=0, atol=1e-8)
    first, second, third = np.array(integral[1:]) / integral[0]
    moments = effect_moments(found, factor)
    variance = second - first**2
    np.testing.assert_allclose(moments.mean[0, 0, 0], tau * first, rtol=0, atol=1e-7 * tau)
    np.testing.assert_allclose(moments.covariance[0, 0, 0], tau**2 * variance, rtol=1e-6)
    skew = third - 3 * first * second + 2 * first**3
    np.testing.assert_allclose(moments.third[0, 0, 0], tau**3 * skew, atol=1e-5 * (tau**2 * variance) ** 1.5)


@pytest.mark.parametrize("q", [1, 2])
@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_louis_derivatives_are_those_of_differences(family, q):
    responses, priors = made_up(family, q=q, trials=4)
    model, _ = generalized_model(responses, priors)
    model = replace(model, points_per_axis=15)
    rng = np.random.default_rng(1)
    psi = np.append([0.3, -0.2, 0.5], rng.normal(size=model.parameters.n_dim) * 0.4)
    zero = np.zeros((q, model.cells.n_groups, 1))
    look, _ = model.look(psi, zero)
    step = 1e-5
    around = [model.look(psi + sign * step * unit, zero)[0] for unit in np.eye(len(psi)) for sign in (1, -1)]
    gradient = [(a.value - b.value) / (2 * step) for a, b in zip(around[::2], around[1::2], strict=True)]
    hessian = [(a.gradient - b.gradient) / (2 * step) for a, b in zip(around[::2], around[1::2], strict=True)]
    np.testing.assert_allclose(look.gradient, gradient, atol=2e-5 * np.abs(gradient).max())
    np.testing.assert_allclose(-look.precision, hessian, atol=1e-4 * np.abs(hessian).max())
    start = working_model(model.cells, psi[:3], np.eye(q), np.zeros((q, model.cells.n_groups))).start
    of_common = model.common_gradient(np.stack([psi, psi + 0.1]), start)
    np.testing.assert_allclose(of_common[0], look.gradient[:3], rtol=1e-9, atol=1e-9)
    there = [model.evaluate(psi + 0.1 + sign * step * np.eye(len(psi))[:3], start).log_density for sign in (1, -1)]
    np.testing.assert_allclose(of_common[1], (there[0] - there[1]) / (2 * step), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(model.evaluate(psi[None]).log_density, look.value, rtol=1e-12)


def test_columns_of_ones_take_the_same_way_as_any_others():
    # the short ways of a varying intercept, against the general one: a column that is 1 but for one empty cell
    for family, trials in (("binomial", 1), ("binomial", 5), ("poisson", 1)):
        responses, priors = made_up(family, trials=trials)
        model, _ = generalized_model(responses, priors)
        empty = replace(
            model.cells,
            y=np.append(model.cells.y, 0.0),
            size=np.append(model.cells.size, 0.0),
            x=np.vstack([model.cells.x, np.zeros(3)]),
            z=np.vstack([model.cells.z, [[0.5]]]),
        )
        assert model.cells.varies_by_intercept
        assert not empty.varies_by_intercept
        far = [700.0, 300.0, 0.0, 3.0] if family == "binomial" else [20.0, 9.0, 0.0, 3.0]
        psi = np.array([[0.1, 0.4, -0.3, 0.2], [-1.0, 0.0, 0.0, 1.5], far])
        for points in (psi[:2], psi):
            short = model.evaluate(points).log_integral
            np.testing.assert_allclose(short, replace(model, cells=empty).evaluate(points).log_integral, rtol=1e-10)


def test_rows_weights_and_copies_are_the_same_data():
    for family in ("binomial", "poisson"):
        responses, priors = made_up(family, n_rows=60, trials=5)
        moments = {
            "x_moments": (responses.x.mean(0), responses.x.std(0)),
            "z_moments": (responses.z.mean(0), responses.z.std(0)),
        }
        responses = replace(responses, **moments)
        exact, _ = answers(responses, priors)
        repeats = np.random.default_rng(0).integers(0, 4, size=60)
        weighted, _ = answers(replace(responses, weight=repeats.astype(float)), priors)
        at = np.repeat(np.arange(60), repeats)
        names = ("y", "size", "x", "z", "codes")
        copied, _ = answers(replace(responses, **{name: getattr(responses, name)[at] for name in names}), priors)
        # answers of rows are those of the rows given: compare what is before them
        n = len(weighted) - 2 * 60
        np.testing.assert_allclose(weighted[:n], copied[:n], rtol=1e-9, atol=1e-12)
        assert np.abs(weighted[:n] - exact[:n]).max() > 0.01
        # a row cut in two: successes and trials, or counts and exposure, add up
        half = np.concatenate([np.arange(60), np.arange(60)])
        cut = {name: getattr(responses, name)[half] for name in names}
        part = np.where(responses.y > 0, 1.0, 0.0)
        cut["y"] = np.concatenate([responses.y - part, part])
        cut["size"] = np.concatenate([responses.size - 0.5 * responses.size, 0.5 * responses.size])
        if family == "poisson":
            split, _ = answers(replace(responses, **cut), priors)
            np.testing.assert_allclose(split[:n], exact[:n], rtol=1e-9, atol=1e-12)
            rates, _ = answers(
                replace(responses, y=responses.y / responses.size, size=np.ones(60), weight=responses.size), priors
            )
            np.testing.assert_allclose(rates[:n], exact[:n], rtol=1e-9, atol=1e-12)


def test_the_order_of_rows_and_labels_changes_nothing():
    responses, priors = made_up("binomial", q=1, trials=3)
    exact, posterior = answers(responses, priors)
    rng = np.random.default_rng(5)
    at = rng.permutation(90)
    names = ("y", "size", "x", "z", "codes")
    shuffled, other = answers(replace(responses, **{name: getattr(responses, name)[at] for name in names}), priors)
    n = len(exact) - 2 * 90
    np.testing.assert_allclose(shuffled[:n], exact[:n], rtol=1e-9, atol=1e-12)
    relabelled = rng.permutation(12)
    _, other = answers(replace(responses, codes=relabelled[responses.codes]), priors)
    np.testing.assert_allclose(other.common_estimates(), posterior.common_estimates(), rtol=1e-9)
    np.testing.assert_allclose(
        other.group_moments().mean[relabelled], posterior.group_moments().mean, rtol=1e-8, atol=1e-10
    )


@pytest.mark.parametrize("q", [1, 2])
def test_failures_for_successes_negate_every_coefficient(q):
    responses, priors = made_up("binomial", q=q, trials=4)
    _, posterior = answers(responses, priors)
    _, other = answers(
        replace(responses, y=responses.size - responses.y), replace(priors, common_mean=-priors.common_mean)
    )
    np.testing.assert_array_equal(other.common_estimates(), -posterior.common_estimates())
    np.testing.assert_array_equal(other.group_moments().mean, -posterior.group_moments().mean)
    np.testing.assert_array_equal(other.variance_nodes().group_sd[0], posterior.variance_nodes().group_sd[0])
    rows = (responses.x, [responses.z], [responses.codes])
    np.testing.assert_allclose(response_mean(other, *rows), 1 - response_mean(posterior, *rows), rtol=1e-12)


def test_units_of_exposure_move_the_intercept_alone():
    responses, priors = made_up("poisson")
    _, posterior = answers(responses, priors)
    for unit in (1e-6, 365.25, 1e6):
        moved = priors.common_mean - [np.log(unit), 0, 0]
        _, other = answers(replace(responses, size=unit * responses.size), replace(priors, common_mean=moved))
        shift = other.common_estimates() - posterior.common_estimates()
        np.testing.assert_allclose(shift, [-np.log(unit), 0, 0], atol=1e-8)
        np.testing.assert_allclose(other.group_moments().covariance, posterior.group_moments().covariance, rtol=1e-8)


def test_units_of_columns_change_nothing_but_coefficients():
    responses, priors = made_up("poisson", q=2)
    _, posterior = answers(responses, priors)
    x = responses.x * [1, 1e6, 1]
    scaled = replace(priors, common_sd=priors.common_sd / [1, 1e6, 1], common_mean=priors.common_mean / [1, 1e6, 1])
    _, other = answers(replace(responses, x=x), scaled)
    np.testing.assert_allclose(other.common_estimates() * [1, 1e6, 1], posterior.common_estimates(), rtol=1e-8)
    shifted = responses.x + np.array([0, 1e4, 0])
    _, other = answers(replace(responses, x=shifted), priors)
    np.testing.assert_allclose(other.common_estimates()[1:], posterior.common_estimates()[1:], rtol=1e-6)


@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_own_estimates_are_where_the_score_of_each_group_vanishes(family):
    rng = np.random.default_rng(9)
    codes = np.repeat(np.arange(5), [4, 1, 6, 3, 2])
    size = rng.integers(1, 9, len(codes)).astype(float)
    offset, weight = rng.normal(0, 1.5, len(codes)), rng.uniform(0.5, 2.0, len(codes))
    y = rng.binomial(size.astype(int), 0.4).astype(float)
    y[codes == 1] = 0.0
    y[codes == 4] = size[codes == 4]
    ones = np.ones((len(codes), 1))
    found = own_estimates(family, y, size, ones, codes, 5, offset, weight)[:, 0]
    edges = {1: -np.inf} | ({4: np.inf} if family == "binomial" else {})
    for j in range(5):
        at = codes == j

        def score(u, at=at):
            return weight[at] @ (y[at] - size[at] * FAMILIES[family].mean(offset[at] + u))

        expected = edges[j] if j in edges else brentq(score, -30, 30)
        assert found[j] == pytest.approx(expected, abs=1e-8)


def test_own_slopes_are_infinite_where_the_likelihood_rises_without_end_and_only_there():
    flag, year = np.tile([0.0, 1.0], 12), 2000.0 + np.tile(np.arange(8.0), 3)
    codes, trials = np.repeat([0, 1, 2], 8), np.full(24, 50.0)
    y = np.array([9, 20] * 4 + [9, 50] * 4 + [0, 20] * 4, dtype=float)
    columns = np.column_stack([np.ones(24), flag])
    found = own_estimates("binomial", y, trials, columns, codes, 3, np.zeros(24))
    few, many = np.log(9 / 41), np.log(20 / 30)
    np.testing.assert_allclose(found, [[few, many - few], [few, np.inf], [-np.inf, np.inf]], rtol=1e-9)
    # far from the data an intercept is large, and no edge
    y = trials * FAMILIES["binomial"].mean(0.5 * (year - 2003.0))
    found = own_estimates("binomial", y, trials, np.column_stack([np.ones(24), year]), codes, 3, np.zeros(24))
    np.testing.assert_allclose(found, np.tile([-1001.5, 0.5], (3, 1)), rtol=1e-6)


@pytest.mark.parametrize(("family", "q"), [("binomial", 1), ("binomial", 2), ("poisson", 1), ("poisson", 2)])
def test_nodes_of_the_rule_are_integrated_alike_alone_and_together(monkeypatch, family, q):
    rng = np.random.default_rng(2)
    z = np.column_stack([np.ones(24), rng.normal(size=24)])[:, :q]
    y = rng.integers(0, 3, 24).astype(float)
    cells = collect_cells(family, y, np.full(24, 4.0), z, z, np.arange(24) % 5, 5)
    b, factor = rng.normal(0, 0.3, (3, q)), np.repeat(np.tril(0.6 * np.ones((q, q)))[None], 3, axis=0)
    found = []
    for together in (20_000, 1):
        monkeypatch.setattr(inner, "TOGETHER", together)
        rule = hermite_rule(5, q)
        of_groups = integrate_groups(cells, cells.predictor(b), factor, np.zeros((q, 5, 3)), rule)
        one = integrate_groups(cells, cells.predictor(b[:1]), factor[:1], np.zeros((q, 5, 1)), rule)
        gradient, hessian = louis_derivatives(cells, cells.predictor(b[:1])[:, 0], factor[:1], one, rule)
        found.append([of_groups.log_integral, of_groups.share, gradient, hessian])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", ["binomial", "poisson"])
@pytest.mark.parametrize("q", [1, 2])
def test_integrals_about_the_modes_are_the_same_integrals(family, q, monkeypatch):
    """As millions of counts need; here nothing is lost either way, and steps are short and long."""
    responses, _ = made_up(family, q=q, trials=20)
    cells = collect_cells(
        family, responses.y, responses.size, responses.x, responses.z, responses.codes, responses.n_groups
    )
    base = cells.predictor(np.array([[-0.9, 0.3, 0.4], [2.0, -0.5, 1.0]]))
    factor = np.array([0.7 * np.eye(q), 4.0 * np.tri(q)])
    start, rule = np.zeros((q, cells.n_groups, 2)), hermite_rule(9, q)
    plain = integrate_groups(cells, base, factor, start, rule)
    monkeypatch.setitem(vars(cells), "are_heavy", True)
    about = integrate_groups(cells, base, factor, start, rule)
    np.testing.assert_allclose(about.log_integral, plain.log_integral, rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(about.share, plain.share, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("tau", [1e-9, 1e-3, 0.7, 6.0])
@pytest.mark.parametrize("exposure", [1e-4, 1.0, 1e5])
@pytest.mark.parametrize("count", [0.0, 2.0, 1e5])
def test_growth_of_counts_is_that_of_a_dense_grid(count, exposure, tau):
    """To 5 % where tau is 6: there, without counts, three moments are wrong by e^4 and a rule of 11 points by e."""
    one = np.ones((1, 1))
    cells = collect_cells("poisson", np.array([count]), np.array([exposure]), one, one, np.array([0]), 1)
    found = integrate_groups(cells, 0.0 * one, np.full((1, 1, 1), tau), np.zeros((1, 1, 1)), hermite_rule(11, 1))
    moments = effect_moments(found, np.full((1, 1, 1), tau))
    growth = log_mean_exponential(moments, np.array([tau]), np.array([count]), np.array([[exposure]]))[0, 0]

    def slope(u):
        return count - exposure * np.exp(u) - u / tau**2

    mode = brentq(slope, -500.0, 500.0) if tau > 1e-6 else 0.0
    sd = (exposure * np.exp(mode) + tau**-2) ** -0.5
    u = np.linspace(mode - 12 * tau, mode + 12 * sd + 2 * tau**2 * (count == 0), 2_000_001)
    log_density = count * u - exposure * np.exp(u) - 0.5 * (u / tau) ** 2
    weight = np.exp(log_density - log_density.max())
    exact = mode + np.log(weight @ np.exp(u - mode) / weight.sum())
    np.testing.assert_allclose(growth, exact, rtol=1e-9, atol=0.05 if tau == 6.0 else 1e-3 * tau)


def test_far_ends_of_a_rule_have_no_density():
    """At the upper end exponents are below -1e9: exponentials that are not worked out."""
    one = np.ones((1, 1))
    cells = collect_cells("poisson", np.array([0.0]), np.array([1e3]), one, one, np.array([0]), 1)
    found = integrate_groups(cells, 0.0 * one, np.full((1, 1, 1), 40.0), np.zeros((1, 1, 1)), hermite_rule(31, 1))
    assert np.isfinite(found.density).all()
    assert found.density.min() < 1e-250
    np.testing.assert_allclose(found.share.sum(), 1.0)


@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_what_a_likelihood_bends_by_over_short_and_long_steps(family):
    """By its Taylor series where steps are short, whose next terms are 1e-10 of it."""
    of = FAMILIES[family]
    eta = np.array([-8.0, -0.3, 2.0])
    step = 1e-5
    series = of.mean_and_weight(eta)[1] * step**2 / 2 + of.third(eta) * step**3 / 6
    np.testing.assert_allclose(excess(of, eta, np.full(3, step)), series, rtol=1e-8)
    step = np.array([-3.0, 0.9, 1.5])
    direct = of.cumulant(eta + step) - of.cumulant(eta) - of.mean_and_weight(eta)[0] * step
    np.testing.assert_allclose(excess(of, eta, step), direct, rtol=1e-10)


@pytest.mark.parametrize("family", ["binomial", "poisson"])
def test_cells_of_one_varying_design_are_moved_together_and_alone_alike(family):
    rng = np.random.default_rng(4)
    codes, flag = np.repeat(np.arange(6), [7, 3, 9, 1, 5, 8]), rng.integers(2, size=33).astype(float)
    x, y = np.column_stack([np.ones(33), rng.normal(size=33), flag]), rng.integers(0, 4, 33).astype(float)
    b, factor = rng.normal(0, 0.3, (40, 3)), np.repeat(np.array([[[0.9, 0.0], [-0.4, 0.7]]]), 40, axis=0)
    rule, found, n_strata = hermite_rule(5, 2), [], []
    for apart in (0.0, 1e-13 * np.arange(33)):  # of which the sorted order of cells is not the same
        z = np.column_stack([np.ones(33), flag + apart])
        cells = collect_cells(family, y, np.full(33, 4.0), x, z, codes, 6)
        of_groups = integrate_groups(cells, cells.predictor(b), factor, np.zeros((2, 6, 40)), rule)
        found.append((of_groups.log_integral, *effect_moments(of_groups, factor)))
        n_strata.append(len(cells.strata.group))
    assert n_strata[0] < 12 < n_strata[1]
    for together, alone in zip(*found, strict=True):
        np.testing.assert_allclose(together, alone, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("way", [(10**9, 0), (0, 10**9), (0, 0)])
def test_sums_over_stretches_are_those_of_loops(monkeypatch, way):
    monkeypatch.setattr(cells_module, "FULL_ENTRIES", way[0])
    monkeypatch.setattr(cells_module, "FEW_SUMS", way[1])
    values, starts = np.random.default_rng(5).normal(size=(3, 11, 4)), np.array([0, 2, 3, 9])
    times = np.random.default_rng(6).random(11)
    for one in (None, times):
        of_rows = values if one is None else values * one[:, None]
        expected = [[block[a:b].sum(axis=0) for a, b in ((0, 2), (2, 3), (3, 9), (9, 11))] for block in of_rows]
        sums = cells_module.Stretches(starts, 11, one)
        np.testing.assert_allclose(sums(values), expected, rtol=1e-12)
        np.testing.assert_allclose(sums(values[1]), expected[1], rtol=1e-12)
        alone = cells_module.Stretches(np.arange(11), 11, one)
        np.testing.assert_allclose(alone(values), of_rows, rtol=1e-15)


def test_more_steps_for_some_groups_at_some_points_leave_the_others_alone(monkeypatch):
    responses, priors = made_up(n_groups=9, q=2, trials=6)
    model, _ = generalized_model(responses, priors)
    psi = np.random.default_rng(6).normal(0.0, 0.7, (80, model.n_dim))
    found = []
    for few in (0, 10**9):
        monkeypatch.setattr(inner, "FEW_ELEMENTS", few)
        found.append(model.evaluate(psi).log_density)
    np.testing.assert_allclose(*found, rtol=1e-10)


@pytest.mark.parametrize("n_points", [16, 256])
@pytest.mark.parametrize("q", [1, 2])
def test_points_of_the_joint_proposal_are_drawn_with_their_density(q, n_points):
    """Of 256 points coefficients have the moments of the law; of 16 they have not."""
    model, _ = generalized_model(*made_up(n_groups=9, q=q, trials=6))
    mode = find_joint_mode(model)
    proposal, _ = joint_proposals(
        lambda psi: model.evaluate(psi, mode.start).log_density, mode, model.parameters, model.prior_precision
    )
    psi, log_density = proposal.draw(np.random.default_rng(1).random((n_points, proposal.n_uniforms)))
    np.testing.assert_allclose(log_density, proposal.log_density(psi), rtol=1e-9)
