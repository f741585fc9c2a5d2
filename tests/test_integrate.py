"""Integration over a few parameters: proposals that are what they say, means that are right, errors that are honest."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.stats import qmc

from hbsk._engine import fit, mode_search, split_t
from hbsk._engine import integrate as engine
from hbsk._engine.integrate import (
    N_REPLICATES,
    KernelT,
    importance_sample,
    monte_carlo_error,
    unit_cube_points,
)
from hbsk._engine.mode_search import find_mode
from hbsk._engine.pareto import smoothed_weights
from hbsk._engine.settings import DEFAULT
from hbsk._engine.split_t import SplitT, first_proposals


@dataclass(frozen=True)
class Evaluated:
    theta: np.ndarray
    log_density: np.ndarray


def evaluator(log_density):
    return lambda theta: Evaluated(theta, log_density(theta))


def theta_of(rounds):
    return np.concatenate([points.theta for points in rounds])


def a_split_t():
    scale = np.array([[0.8, 0.3], [-0.2, 1.7]])
    return SplitT(np.array([0.5, -2.0]), scale, np.array([0.7, 2.5]), np.array([1.9, 1.1]))


def a_widening_t():
    scale = np.array([[0.8, 0.3, 0.0], [-0.2, 1.7, 0.1], [0.1, 0.0, 0.6]])
    widening = np.zeros((2, 3, 3))
    widening[:, 0, 1], widening[:, 1, 2] = (0.9, 0.4), (0.6, 0.9)
    sides = np.array([0.7, 2.5, 1.0]), np.array([1.9, 1.1, 0.8])
    return SplitT(np.array([0.5, -2.0, 0.0]), scale, *sides, widening)


def a_kernel_t(rng):
    return KernelT(
        rng.normal(size=(engine.KERNELS, 2)) * 2, np.array([0.3, -1.0]), np.array([[1.2, 0.0], [-0.5, 0.7]]), 0.4
    )


@pytest.mark.parametrize("kind", ["split", "widening", "kernel"])
@pytest.mark.parametrize("place", [(0.5, -2.0), (-0.6, -3.5), (2.0, -1.0), (0.0, 1.0)])
def test_points_of_a_proposal_follow_its_density(rng, kind, place):
    proposal = {"split": a_split_t, "widening": a_widening_t, "kernel": lambda: a_kernel_t(rng)}[kind]()
    points = proposal.points(qmc.Sobol(proposal.n_uniforms, rng=rng).random(2**17 if kind == "widening" else 2**15))
    place = (*place, 0.4)[: points.shape[1]]
    # for any density f the mean of f / q over points of q is 1, if q is normalised and the points are its own
    ratio = stats.multivariate_normal(place, 0.3).pdf(points) / np.exp(proposal.log_density(points))
    assert ratio.mean() == pytest.approx(1.0, abs=0.01)


def test_unit_cube_points_are_fixed_antithetic_and_even():
    points = unit_cube_points(3, 32, salt=1)
    assert points.shape == (N_REPLICATES * 32, 3)
    assert 0 < points.min() < points.max() < 1
    unit_cube_points.cache_clear()
    np.testing.assert_array_equal(unit_cube_points(3, 32, salt=1), points)
    assert not np.array_equal(unit_cube_points(3, 32, salt=2), points)
    with pytest.raises(ValueError, match="read-only"):
        points[0] = 0.5
    replicates = points.reshape(N_REPLICATES, 32, 3)
    for replicate in replicates:
        np.testing.assert_allclose(replicate[:16] + replicate[16:], 1.0, rtol=0, atol=1e-12)
        # a scrambled net: each sixteenth of each axis has one of the sixteen points
        np.testing.assert_array_equal(
            np.sort(np.floor(replicate[:16] * 16), axis=0), np.arange(16)[:, None] * np.ones(3)
        )
    assert len(np.unique(replicates[:, 0, 0])) == N_REPLICATES
    # odd functions are integrated exactly
    np.testing.assert_allclose(points.mean(axis=0), 0.5, atol=1e-12)


@pytest.mark.parametrize("per_replicate", [2, 4, 8, 64, 128])
def test_unit_cube_points_of_any_power_of_two(per_replicate):
    assert unit_cube_points(2, per_replicate, salt=0).shape == (N_REPLICATES * per_replicate, 2)


# The mode


def gaussian(mean, precision):
    def value_and_gradient(theta):
        deviation = theta - mean
        return -0.5 * np.einsum("ni,ij,nj->n", deviation, precision, deviation), -deviation @ precision

    return value_and_gradient


def test_mode_of_a_gaussian_is_its_mean(rng):
    root = np.tril(rng.normal(size=(4, 4))) + 2 * np.eye(4)
    precision, mean = root @ root.T, 6 * rng.normal(size=4)
    mode, found = find_mode(gaussian(mean, precision), np.zeros(4))
    np.testing.assert_allclose(mode, mean, atol=1e-8)
    np.testing.assert_allclose(found, precision, rtol=1e-6)


def test_mode_is_found_from_anywhere():
    # a gamma law of exp(theta), as log sds have; its mode and curvature are known
    shape, rate = np.array([3.2, 40.0]), np.array([0.7, 3000.0])

    def value_and_gradient(theta):
        return theta @ shape - np.exp(theta) @ rate, shape - np.exp(theta) * rate

    sd = shape**-0.5
    for start, error in (([1.4, -4.3], 0.02), ([5.0, 2.0], 1e-4), ([-8.0, -9.0], 1e-4)):
        mode, precision = find_mode(value_and_gradient, np.array(start))
        # in posterior sds; what importance sampling makes of a proposal does not hang on more, but where steps do not
        # find what they expect the mode is polished
        assert np.max(np.abs(mode - np.log(shape / rate)) / sd) < error
        np.testing.assert_allclose(precision, np.diag(shape), rtol=0.2, atol=1e-6)


def test_short_way_to_the_mode_is_not_polished():
    # what the search costs: the start, and one step that finds what it expects
    calls = []

    def value_and_gradient(theta):
        calls.append(theta[0])
        return -np.cosh(theta).sum(axis=1), -np.sinh(theta)

    find_mode(value_and_gradient, np.array([0.5]))
    assert len(calls) == 2


def test_flat_direction_is_left_where_it_is():
    def value_and_gradient(theta):
        x, y = theta.T
        return 5e-6 * x - 0.5e-8 * x**2 - y**2, np.column_stack([5e-6 - 1e-8 * x, -2 * y])

    mode, _ = find_mode(value_and_gradient, np.array([0.3, 0.2]))
    assert abs(mode[0] - 0.3) < 1.0


def test_no_step_is_the_last_where_the_density_curves_upwards():
    upwards = mode_search.Look(np.zeros(1), 0.0, np.array([0.5]), np.array([[-4.0]]))
    assert not upwards.is_within(0.1)
    assert mode_search.Look(np.zeros(1), 0.0, np.array([0.1]), np.array([[4.0]])).is_within(0.1)


@pytest.mark.parametrize(
    ("theta", "gradient", "expected"),
    [(0.25, 0.1, 0.1), (0.25, 0.9, 0.9), (0.25, -0.6, 0.6), (1.0, -3.0, np.inf)],
    ids=["as expected", "as if nothing had moved", "overshot", "at the end of the trust region"],
)
def test_steps_that_find_what_they_expect_are_told_from_rounding(theta, gradient, expected):
    start = mode_search.Look(np.zeros(1), 0.0, np.array([1.0]), np.array([[4.0]]))
    found = mode_search.Look(np.array([theta]), 0.0, np.array([gradient]), np.array([[4.0]]))
    assert start.surprise(found) == pytest.approx(expected)


def test_mode_beyond_a_saddle_is_found():
    def value_and_gradient(theta):
        x, y = theta.T
        value = -((x**2 - 1) ** 2) - 0.3 * (x - 1) ** 2 - y**2
        return value, np.column_stack([-4 * x * (x**2 - 1) - 0.6 * (x - 1), -2 * y])

    mode, precision = find_mode(value_and_gradient, np.array([0.0, 2.0]))
    # sds 0.34 and 0.71
    np.testing.assert_allclose(mode, [1.0, 0.0], atol=5e-3)
    assert np.all(np.linalg.eigvalsh(precision) > 0)


@pytest.mark.parametrize("start", [1.0, 2.5, 4.0])
def test_a_saddle_is_left_behind(start):
    # the way along y leads to a saddle, where slopes are small and short steps lead nowhere
    def value_and_gradient(theta):
        x, y = theta.T
        return 0.5 * x**2 - x**4 / 4 - y**2, np.column_stack([x - x**3, -2 * y])

    mode, precision = find_mode(value_and_gradient, np.array([1e-6, start]))
    np.testing.assert_allclose(np.abs(mode), [1.0, 0.0], atol=0.02)
    np.testing.assert_allclose(precision, np.diag([2.0, 2.0]), rtol=0.2, atol=1e-6)


@pytest.mark.parametrize("radius", [0.1, 1.0, 30.0])
@pytest.mark.parametrize("lowest", [3.0, 0.0, -2.0])
@pytest.mark.parametrize("along_lowest", [1.0, 1e-3, 0.0])
def test_step_within_a_radius_gains_most(rng, radius, lowest, along_lowest):
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    precision = axes @ np.diag([lowest, 4.0, 9.0]) @ axes.T
    gradient = axes @ [along_lowest, -2.0, 0.5]
    step, is_bounded = mode_search.trust_step(gradient, precision, radius)
    look = mode_search.Look(np.zeros(3), 0.0, gradient, precision)
    directions = rng.normal(size=(4000, 3))
    directions *= (radius * rng.random(4000) ** (1 / 3) / np.linalg.norm(directions, axis=1))[:, None]
    assert np.linalg.norm(step) <= radius * (1 + 1e-5)
    assert is_bounded == (np.linalg.norm(step) >= radius * (1 - 1e-5))
    assert look.gain(step) >= max(map(look.gain, directions)) - 1e-9


@pytest.mark.parametrize(("try_shorter", "points"), [(True, [2, 2, 6]), (False, [2, 2, 2])])
def test_shorter_steps_are_looked_at_in_the_same_call_where_points_are_cheap(try_shorter, points):
    calls = []

    def value_and_gradient(theta):
        calls.append(len(theta))
        return -np.cosh(theta).sum(axis=1), -np.sinh(theta)

    mode, _ = find_mode(value_and_gradient, np.array([9.0]), try_shorter=try_shorter)
    assert calls[:3] == points
    assert abs(mode[0]) < 0.01


def test_search_begins_at_the_best_of_several_points_though_some_have_no_density():
    model = SimpleNamespace(rough_log_density=lambda theta: np.where(theta[:, 0] < 0, np.nan, -theta[:, 0]))
    np.testing.assert_array_equal(fit.best_of(model, np.array([[9.0], [-1.0], [0.2]])), [0.2])


# The split-t


def test_split_t_has_the_axes_of_a_gaussian():
    precision = np.array([[4.0, 1.0], [1.0, 0.9]])
    mean = np.array([1.0, -2.0])
    proposal, _ = first_proposals(lambda theta: gaussian(mean, precision)(theta)[0], mean, precision)
    np.testing.assert_allclose(proposal.scale @ proposal.scale.T, np.linalg.inv(precision), rtol=1e-12)
    np.testing.assert_allclose(proposal.below, split_t.INFLATION, rtol=1e-9)
    np.testing.assert_allclose(proposal.above, split_t.INFLATION, rtol=1e-9)


def test_split_t_is_longer_on_the_side_of_the_long_tail():
    law = stats.gamma(1.3)  # log-gamma: a long left tail, a short right one

    def log_density(theta):
        return law.logpdf(np.exp(theta[:, 0])) + theta[:, 0]

    proposal, _ = first_proposals(log_density, np.log([1.3]), np.array([[1.3]]))
    side = np.sign(proposal.scale[0, 0])
    lower, upper = (proposal.below, proposal.above) if side > 0 else (proposal.above, proposal.below)
    assert lower[0] > 1.3 * upper[0]


def test_split_t_widens_where_another_axis_leaves_it_free():
    # the second coordinate is 2.5 times as wide below -2 on the first, and twice above 2
    def log_density(theta):
        first, second = theta.T
        width = np.exp(np.where(first < 0, np.log(2.5), np.log(2.0)) * np.minimum(np.abs(first) / 2, 1.0))
        return -0.5 * first**2 - 0.5 * (second / width) ** 2 - np.log(width)

    proposal, _ = first_proposals(log_density, np.zeros(2), np.eye(2))
    known = np.log([2.5, 2.0]) - split_t.LEAST_WIDENING
    np.testing.assert_allclose(proposal.widening[:, 0, 1], known, rtol=1e-9)
    assert np.count_nonzero(proposal.widening) == 2
    uniforms = qmc.Sobol(2, rng=np.random.default_rng(0)).random(2**12)
    tails = []
    for way in (proposal, replace(proposal, widening=None)):
        points = way.points(uniforms)
        tails.append(smoothed_weights(log_density(points) - way.log_density(points))[1])
    assert tails[0] < tails[1] - 0.3


# Weights and errors


def test_monte_carlo_error_by_hand(rng):
    replicate = np.repeat(np.arange(N_REPLICATES), 5)
    weight = rng.random(len(replicate))
    weight /= weight.sum()
    values = rng.normal(size=(len(replicate), 2))
    mean, sd, error = monte_carlo_error(values, weight, replicate)
    np.testing.assert_allclose(mean, np.average(values, axis=0, weights=weight))
    np.testing.assert_allclose(sd**2, np.average((values - mean) ** 2, axis=0, weights=weight))
    # the ratio estimate of each replicate, linearised: sum of w (x - mean), sixteen of them, their sd times sqrt(16)
    totals = np.array([weight[replicate == r] @ (values - mean)[replicate == r] for r in range(N_REPLICATES)])
    np.testing.assert_allclose(error, totals.std(axis=0, ddof=1) * np.sqrt(N_REPLICATES), rtol=1e-12)


def test_monte_carlo_error_is_the_spread_of_the_estimate(rng):
    # ratio estimates of E exp(x) under N(0, 1) from a wider proposal, plain random points: the error must be the sd
    means, errors = [], []
    for _ in range(400):
        x = 1.5 * rng.normal(size=N_REPLICATES * 20)
        weight = np.exp(-0.5 * x**2 + 0.5 * (x / 1.5) ** 2)
        mean, _, error = monte_carlo_error(x[:, None], weight / weight.sum(), np.repeat(np.arange(N_REPLICATES), 20))
        means.append(mean[0])
        errors.append(error[0])
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(np.std(means), rel=0.12)
    assert np.mean(np.abs(means) > 3 * np.array(errors)) < 0.025  # Student's t with 15 degrees of freedom: 0.9 %


def test_equal_weights_stay_equal():
    weight, k = smoothed_weights(np.full(100, -3.7))
    np.testing.assert_allclose(weight, 0.01)
    assert k == 0.0


def test_smoothed_weights_sum_to_one_and_keep_their_order(rng):
    log_weight = rng.normal(size=500)
    weight, _ = smoothed_weights(log_weight)
    assert weight.sum() == pytest.approx(1.0)
    assert np.all(np.diff(weight[np.argsort(log_weight)]) >= -1e-15)
    # only the tail is smoothed
    rest = np.argsort(log_weight)[:400]
    np.testing.assert_allclose(
        weight[rest] / weight[rest[0]], np.exp(log_weight[rest] - log_weight[rest[0]]), rtol=1e-10
    )


@pytest.mark.parametrize("shape", [-0.3, 0.2, 0.6, 1.1])
def test_pareto_k_is_the_shape_of_the_tail(rng, shape):
    # weights that are generalised Pareto have that k
    weight = stats.genpareto(shape, loc=0.1).rvs(60_000, random_state=rng)
    _, k = smoothed_weights(np.log(weight))
    assert k == pytest.approx(shape, abs=0.15)


def test_points_without_density_have_no_weight(rng):
    log_weight = rng.normal(size=400)
    log_weight[::7] = -np.inf
    weight, k = smoothed_weights(log_weight)
    assert np.all(weight[::7] == 0)
    assert np.isfinite(k)
    assert weight.sum() == pytest.approx(1.0)


# All of it


def skew(theta):
    """A bent density with the long tail of a log-gamma law; its moments are known."""
    x, y = theta[:, 0], theta[:, 1]
    return 2.3 * x - np.exp(x) - 0.5 * ((y - 0.25 * x**2 + 1) / 0.7) ** 2


def skew_moments():
    mean_x = stats.loggamma(2.3).mean()
    second = stats.loggamma(2.3).var() + mean_x**2
    fourth = integrate.quad(lambda x: x**4 * stats.loggamma(2.3).pdf(x), -40, 8)[0]
    return np.array([mean_x, 0.25 * second - 1]), np.array([second - mean_x**2, 0.0625 * (fourth - second**2) + 0.49])


def skew_proposal():
    def value_and_gradient(theta):
        x, y = theta.T
        pull = (y - 0.25 * x**2 + 1) / 0.49
        return skew(theta), np.column_stack([2.3 - np.exp(x) + 0.5 * x * pull, -pull])

    return first_proposals(skew, *find_mode(value_and_gradient, np.zeros(2)))[0]


def test_moments_of_a_skew_density_within_the_reported_error():
    nodes = importance_sample(evaluator(skew), skew_proposal(), theta_of, first_per_replicate=32, max_nodes=6_000)
    mean, sd, error = monte_carlo_error(nodes.theta, nodes.weight, nodes.replicate)
    wanted_mean, wanted_variance = skew_moments()
    assert np.all(error < DEFAULT.error_target * sd)
    assert np.all(np.abs(mean - wanted_mean) < 4 * error)
    np.testing.assert_allclose(sd**2, wanted_variance, rtol=0.1)
    assert nodes.weight.sum() == pytest.approx(1.0)
    assert len(nodes.weight) == len(nodes.theta) == len(nodes.replicate) == len(nodes.spare)


def test_nodes_are_the_same_bits_at_every_call():
    first, second = (
        importance_sample(evaluator(skew), skew_proposal(), theta_of, first_per_replicate=8, max_nodes=3_000)
        for _ in range(2)
    )
    np.testing.assert_array_equal(first.theta, second.theta)
    np.testing.assert_array_equal(first.weight, second.weight)


def test_a_bad_proposal_is_refitted():
    # ten sds away and too narrow: the first round finds only the flank
    proposal = SplitT(np.array([4.0, -3.0]), 0.5 * np.eye(2), np.ones(2), np.ones(2))
    rounds = []

    def evaluate(theta):
        rounds.append(len(theta))
        return Evaluated(theta, stats.multivariate_normal([0.4, 1.0], [[1.0, 0.5], [0.5, 2.0]]).logpdf(theta))

    nodes = importance_sample(evaluate, proposal, theta_of, first_per_replicate=32, max_nodes=20_000)
    assert len(rounds) > 1
    mean, sd, error = monte_carlo_error(nodes.theta, nodes.weight, nodes.replicate)
    assert np.all(np.abs(mean - [0.4, 1.0]) < 4 * error + 0.02)
    np.testing.assert_allclose(sd, [1.0, np.sqrt(2.0)], rtol=0.1)
    assert nodes.pareto_k < DEFAULT.pareto_k_limit


def test_what_is_not_reliable_has_all_nodes_that_it_may_have():
    """Twice as many as in the last round would be too many; the law is normal, in closed form."""
    proposal = SplitT(np.array([4.0, 4.0]), 0.3 * np.eye(2), np.ones(2), np.ones(2))
    density = evaluator(stats.multivariate_normal([0.0, 0.0], [[1.0, 0.5], [0.5, 1.0]]).logpdf)
    nodes = importance_sample(density, proposal, theta_of, first_per_replicate=32, max_nodes=4_000)
    assert len(nodes.weight) <= 4_000
    assert nodes.pareto_k < DEFAULT.pareto_k_limit
    mean, sd, error = monte_carlo_error(nodes.theta, nodes.weight, nodes.replicate)
    assert np.all(np.abs(mean) < 4 * error)
    np.testing.assert_allclose(sd, 1.0, rtol=0.1)


def test_one_node_with_all_the_weight_still_makes_a_proposal(rng):
    theta, weight = rng.normal(size=(64, 3)), np.eye(64)[5]
    kernels = engine.kernels_on_nodes(engine.Nodes([], theta, weight, np.zeros(64, int), np.nan, 0.0, weight))
    assert np.all(np.isfinite(kernels.points(rng.random((8, 4)))))


def test_few_effective_nodes_widen_the_next_proposal(rng):
    theta, weight = rng.normal(size=(64, 3)), rng.dirichlet(np.full(64, 0.1))
    kernels = engine.kernels_on_nodes(engine.Nodes([], theta, weight, np.zeros(64, int), 0.0, 0.0, weight))
    mean, sd, _ = monte_carlo_error(theta, weight, np.zeros(64, int))
    np.testing.assert_allclose(kernels.mean, mean)
    inflated = sd**2 * (1 + 3 * np.sum(weight**2))
    np.testing.assert_allclose(np.diag(kernels.scale @ kernels.scale.T), inflated, rtol=1e-9)


def test_a_proposal_that_cannot_be_mended_is_reported():
    # tails of a Cauchy law, in seven dimensions: the weights have no variance, and max_nodes stops the adaptation
    def log_density(theta):
        return stats.cauchy.logpdf(theta).sum(axis=1)

    proposal = SplitT(np.zeros(7), 0.5 * np.eye(7), np.ones(7), np.ones(7))
    nodes = importance_sample(evaluator(log_density), proposal, theta_of, first_per_replicate=64, max_nodes=2_000)
    assert nodes.pareto_k > DEFAULT.pareto_k_limit


def test_more_nodes_than_asked_for_are_never_used():
    def log_density(theta):
        return stats.cauchy.logpdf(theta).sum(axis=1)

    proposal = SplitT(np.zeros(3), np.eye(3), np.ones(3), np.ones(3))
    nodes = importance_sample(evaluator(log_density), proposal, theta_of, first_per_replicate=16, max_nodes=2_000)
    assert len(nodes.weight) <= 2_000


def test_levels_for_the_rest_are_even_and_independent_of_theta():
    nodes = importance_sample(evaluator(skew), skew_proposal(), theta_of, first_per_replicate=64, max_nodes=20_000)
    assert 0 < nodes.spare.min() < nodes.spare.max() < 1
    assert nodes.weight @ nodes.spare == pytest.approx(0.5, abs=0.02)
    assert np.corrcoef(np.column_stack([nodes.spare, nodes.theta]).T)[0, 1:] == pytest.approx(0.0, abs=0.05)
