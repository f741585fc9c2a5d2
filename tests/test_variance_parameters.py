"""Maps between theta and variance parameters: inverses, Jacobians and priors against numbers found another way."""

import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import gammaln

from hbsk._engine.sd_prior import SdPrior
from hbsk._engine.variance_parameters import (
    RESIDUAL_SD_FLOOR,
    LogitTransform,
    LogTransform,
    SoftTransform,
    VarianceParameters,
)

HALF_NORMAL = SdPrior("HalfNormal", {"sigma": 1.3})
HALF_T = SdPrior("HalfStudentT", {"nu": 4.0, "sigma": 0.7})
UNIFORM = SdPrior("Uniform", {"lower": 0.2, "upper": 3.1})
TRANSFORMS = pytest.mark.parametrize(
    "transform",
    [LogTransform(1e-6), LogitTransform(0.2, 3.1), SoftTransform(1.0), SoftTransform(0.03)],
    ids=lambda transform: type(transform).__name__,
)


def derivative(function, x, step=1e-5):
    """Fourth-order central difference."""
    return (8 * (function(x + step) - function(x - step)) - function(x + 2 * step) + function(x - 2 * step)) / (
        12 * step
    )


@TRANSFORMS
def test_transforms_rise_over_their_support(transform):
    # a thousandth of a unit apart, from an sd of some 1e-14 to one of 1e4
    sd = transform.sd(np.linspace(-7.0, 9.0, 16_001))
    assert np.all(np.diff(sd) > 0)
    low, high = (
        (transform.lower, transform.upper)
        if isinstance(transform, LogitTransform)
        else (getattr(transform, "floor", 0.0), np.inf)
    )
    assert low < sd[0] < low + 3e-3
    assert sd[-1] > (high - 1e-3 if np.isfinite(high) else 200.0)


@TRANSFORMS
def test_lines_know_their_jacobian_and_its_slope(transform):
    x = np.linspace(-6.0, 6.0, 25)
    log_jacobian, slope = transform.log_jacobian(x)
    np.testing.assert_allclose(np.exp(log_jacobian), derivative(transform.sd, x), rtol=1e-8, atol=1e-14)
    np.testing.assert_allclose(slope, derivative(lambda t: transform.log_jacobian(t)[0], x), rtol=1e-7, atol=1e-8)


@TRANSFORMS
@pytest.mark.parametrize("sd", [0.45, 1.7, 2.7])
def test_positions_invert_transforms(transform, sd):
    assert transform.sd(np.array(transform.position(sd))) == pytest.approx(sd, rel=1e-9)


def test_positions_of_extreme_sds_are_finite():
    for transform in (
        LogTransform(1e-6),
        LogitTransform(0.2, 3.1),
        SoftTransform(1.0),
        SoftTransform(0.03),
        SoftTransform(1e-6),
        SoftTransform(1e6),
    ):
        for sd in (0.0 if isinstance(transform, SoftTransform) else 1e-6, 1e-3, 1e3, 1e9):
            assert np.isfinite(transform.position(sd)), (transform, sd)


def make(q=2, *, residual=HALF_T, group=None, blocks=None, eta=(1.0,)):
    group = [HALF_NORMAL] * q if group is None else group
    blocks = (tuple(range(q)),) if blocks is None else blocks
    return VarianceParameters(residual, group, blocks, eta * len(blocks), np.linspace(0.4, 1.7, q))


@pytest.mark.parametrize(
    ("parameters", "n_dim", "integrated"),
    [
        (make(1), 1, True),
        (make(3), 6, True),
        (make(3, blocks=((0,), (1,), (2,))), 3, True),
        (make(4, blocks=((0, 2), (1, 3))), 6, True),
        (make(2, residual=1.5), 3, False),
        (make(2, group=[HALF_NORMAL, 0.8]), 3, False),
        (make(2, group=[HALF_NORMAL, UNIFORM]), 4, False),
        (make(2, residual=UNIFORM), 4, False),
        (make(1, residual=1.0, group=[2.0]), 0, False),
        (make(0, blocks=()), 0, True),
    ],
)
def test_dimensions_and_forms(parameters, n_dim, integrated):
    assert (parameters.n_dim, parameters.integrated) == (n_dim, integrated)


@pytest.mark.parametrize("blocks", [((0, 1, 2, 3),), ((1, 3), (0, 2)), ((0,), (1, 2, 3))])
def test_factors_are_those_of_correlation_matrices(rng, blocks):
    parameters = make(4, blocks=blocks)
    points = parameters.points(rng.normal(size=(7, parameters.n_dim)))
    correlation = points.correlation_factor @ points.correlation_factor.swapaxes(1, 2)
    np.testing.assert_allclose(np.einsum("mkk->mk", correlation), 1.0, rtol=1e-14)
    assert np.all(np.diagonal(points.correlation_factor, axis1=1, axis2=2) > 0)
    assert np.all(np.triu(points.correlation_factor, 1) == 0)
    together = np.zeros((4, 4), dtype=bool)
    for block in blocks:
        together[np.ix_(block, block)] = True
    assert np.all(correlation[:, ~together] == 0)
    assert np.all(np.abs(correlation[:, together & ~np.eye(4, dtype=bool)]) > 1e-6)
    np.testing.assert_allclose(points.relative_factor, points.relative_sd[:, :, None] * points.correlation_factor)


def test_correlations_near_one_stay_finite():
    parameters = make(3)
    theta = np.zeros((2, 6))
    theta[0, 3:], theta[1, 3:] = 9.0, -9.0
    points = parameters.points(theta)
    assert np.all(np.isfinite(points.correlation_factor))
    assert points.correlation_factor[0, 1, 0] == pytest.approx(1.0, abs=1e-12)
    assert np.all(np.isfinite(parameters.correlation_log_prior(theta)))


def lkj_log_density(correlation, eta):
    """Lewandowski, Kurowicka, Joe 2009, equations 2 and 16: the density over the off-diagonal entries."""
    d = len(correlation)
    log_constant = 0.0
    for k in range(1, d):
        log_constant += (2 * eta - 2 + d - k) * (d - k) * np.log(2)
        a = eta + (d - k - 1) / 2
        log_constant += (d - k) * (2 * gammaln(a) - gammaln(2 * a))
    return (eta - 1) * np.linalg.slogdet(correlation)[1] - log_constant


@pytest.mark.parametrize("eta", [0.6, 1.0, 2.7])
@pytest.mark.parametrize("q", [2, 3, 4])
def test_prior_of_partial_correlations_is_lkj_with_its_jacobian(rng, q, eta):
    parameters = make(q, eta=(eta,))
    theta = 0.7 * rng.normal(size=(5, parameters.n_dim))
    below = np.tril_indices(q, -1)

    def correlations(tail, at):
        points = parameters.points(np.concatenate([theta[at, :q], tail])[None])
        factor = points.correlation_factor[0]
        return (factor @ factor.T)[below]

    wanted = []
    for at in range(5):
        tail = theta[at, q:]
        jacobian = [
            derivative(lambda t, step=step, tail=tail, at=at: correlations(tail + t * step, at), 0.0)
            for step in np.eye(len(tail))
        ]
        correlation = np.eye(q)
        correlation[below] = correlations(tail, at)
        correlation = correlation + np.tril(correlation, -1).T
        wanted.append(lkj_log_density(correlation, eta) + np.linalg.slogdet(np.array(jacobian))[1])
    np.testing.assert_allclose(parameters.correlation_log_prior(theta), wanted, rtol=1e-7, atol=1e-7)


def test_priors_of_blocks_add_up(rng):
    eta = (0.8, 1.9)
    parameters = VarianceParameters(HALF_T, [HALF_NORMAL] * 4, ((0, 2), (1, 3)), eta)
    theta = rng.normal(size=(3, 6))
    separate = [
        VarianceParameters(HALF_T, [HALF_NORMAL] * 2, ((0, 1),), (e,)).correlation_log_prior(
            np.column_stack([theta[:, :2], theta[:, 4 + k]])
        )
        for k, e in enumerate(eta)
    ]
    np.testing.assert_allclose(parameters.correlation_log_prior(theta), separate[0] + separate[1], rtol=1e-13)


def test_group_sd_prior_integrates_to_one_given_sigma():
    # the prior of sigma and the Jacobian d sigma / d x are the other part of the joint density
    parameters = make(1)
    sigma = np.array([[0.8]])

    def density(x):
        points = parameters.points(np.array([[x]]))
        return np.exp(parameters.sd_log_prior(np.array([[x]]), sigma, points.relative_sd)[0, 0])

    of_sigma = HALF_T.log_density(0.8) + np.log(0.8 - RESIDUAL_SD_FLOOR)
    total, _ = integrate.quad(density, -25, 25, epsabs=1e-12, points=[-2, 0, 2])
    assert total == pytest.approx(np.exp(of_sigma), rel=1e-8)


def test_joint_prior_integrates_to_one_over_theta():
    parameters = make(1, residual=UNIFORM, group=[HALF_T])
    sigma, tau = np.meshgrid(np.linspace(-12, 12, 481), np.linspace(-12, 9, 421), indexing="ij")
    theta = np.column_stack([sigma.ravel(), tau.ravel()])
    points = parameters.points(theta)
    # trapezoid rule on smooth functions that vanish at the ends
    density = np.exp(parameters.sd_log_prior(theta, points.sigma[:, None], points.relative_sd)[:, 0])
    assert density.sum() * 0.05**2 == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("family", ["HalfNormal", "HalfStudentT"])
def test_joint_prior_is_the_density_of_the_sds_times_the_jacobian(rng, family):
    prior = HALF_NORMAL if family == "HalfNormal" else HALF_T
    law = (
        stats.halfnorm(scale=1.3).logpdf
        if family == "HalfNormal"
        else (lambda x: np.log(2) + stats.t(4, scale=0.7).logpdf(x))
    )
    parameters = make(2, residual=UNIFORM, group=[prior, 0.8], blocks=((0,), (1,)))
    theta = rng.normal(size=(6, 2))
    points = parameters.points(theta)
    tau = points.relative_sd[:, 0] * points.sigma
    np.testing.assert_allclose(points.relative_sd[:, 1] * points.sigma, 0.8, rtol=1e-13)
    jacobians = [
        np.log(derivative(lambda t, transform=transform, x=x: transform.sd(x + t), 0.0))
        for transform, x in ((LogitTransform(0.2, 3.1), theta[:, 0]), (SoftTransform(0.4), theta[:, 1]))
    ]
    wanted = -np.log(2.9) + jacobians[0] + law(tau) + jacobians[1]
    found = parameters.sd_log_prior(theta, points.sigma[:, None], points.relative_sd)[:, 0]
    np.testing.assert_allclose(found, wanted, rtol=1e-8)


def test_slope_in_sigma_of_the_integrated_prior(rng):
    parameters = make(2)
    theta = rng.normal(size=(4, 3))
    relative_sd = parameters.points(theta).relative_sd
    log_sigma = rng.normal(size=(4, 5))

    def log_prior(shift):
        return parameters.sd_log_prior(theta, np.exp(log_sigma + shift), relative_sd)

    found = parameters.sigma_slope_of_sd_log_prior(np.exp(log_sigma), relative_sd)
    np.testing.assert_allclose(found, derivative(log_prior, 0.0), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("parameters", [make(2), make(2, residual=UNIFORM), make(2, group=[HALF_NORMAL, UNIFORM])])
def test_a_start_has_the_sds_it_was_asked_for_and_no_correlation(parameters):
    theta = parameters.theta_of(0.9, np.array([0.5, 1.1]))
    points = parameters.points(theta[None])
    np.testing.assert_allclose(points.relative_sd, [[0.5 / 0.9, 1.1 / 0.9]], rtol=1e-9)
    np.testing.assert_allclose(points.correlation_factor, [np.eye(2)], atol=1e-15)
    assert points.sigma is None or points.sigma == pytest.approx(0.9)


def test_a_fixed_residual_sd_needs_no_theta():
    parameters = make(1, residual=1.5)
    points = parameters.points(np.array([[0.3]]))
    assert points.sigma == 1.5
