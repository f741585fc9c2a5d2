"""Sds, ends of intervals and draws of the variance parameters; large numbers of groups are in tests/slow."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hbsk import PartialPoolingRegressor
from hbsk._engine.integrate import unit_cube_points
from hbsk._engine.log_density_surface import fit_surface, monomials
from hbsk._engine.settings import IntegrationSettings
from hbsk.exceptions import ConvergenceWarning
from tests.tails import errors, fit, simulate

# Posterior sds, and a share of the sd.
MOST_AT_ENDS, MOST_OF_SD = 0.05, 0.02


@pytest.mark.parametrize(
    ("n_groups", "n_varying", "group_sd"),
    [(3, 1, 0.6), (10, 1, 0.6), (1000, 1, 0.6), (1000, 1, 0.0), (10, 2, 0.6), (1000, 2, 0.6)],
)
def test_ends_and_sds_are_those_of_the_exact_log_density(n_groups, n_varying, group_sd):
    model = fit(n_groups, n_varying, group_sd=(group_sd, 0.4))
    ends, sds = errors(model, n_nodes=8192 if n_groups == 1000 else 32_768)
    assert ends.max() <= MOST_AT_ENDS, ends
    assert sds.max() <= MOST_OF_SD, sds
    # and the reported errors say so
    table = model.diagnostics_.iloc[: len(ends)]
    reported = table[["mcse_sd", "mcse_eti95_lb", "mcse_eti95_ub"]].div(
        model.summary()["sd"].iloc[-len(ends) :], axis=0
    )
    assert reported.max(axis=None) < MOST_AT_ENDS


@pytest.mark.parametrize(
    ("n_groups", "n_varying", "surface"), [(12, 2, False), (10_000, 1, False), (1500, 2, True), (4000, 2, True)]
)
def test_draws_are_as_many_as_were_asked_for(n_groups, n_varying, surface):
    model = fit(n_groups, n_varying)
    posterior = model._learnt.fitted.posterior
    assert (posterior.law.surface is not None) == surface
    draws = posterior.joint_draws(4000, np.random.default_rng(0), [np.arange(3)])
    for values in (draws.variance.sigma, draws.variance.group_sd[0][:, 0]):
        assert len(np.unique(values)) == 4000
    # they are of the law that the summary shows: Kolmogorov's distance to its points
    nodes, weight, _ = posterior.variance_law()
    for drawn, points in ((draws.variance.sigma, nodes.sigma), (draws.variance.group_sd[0], nodes.group_sd[0])):
        drawn, points = drawn.reshape(4000, -1)[:, -1], points.reshape(len(weight), -1)[:, -1]
        order = np.argsort(points)
        below = np.interp(np.sort(drawn), points[order], np.cumsum(weight[order]))
        assert np.max(np.abs(below - (np.arange(4000) + 0.5) / 4000)) < 1.63 / np.sqrt(4000)


@pytest.mark.parametrize("pooling", ["complete", "none"])
def test_draws_of_sigma_alone_are_as_many_as_were_asked_for(pooling):
    X, y = simulate(6, 1)
    model = PartialPoolingRegressor("y ~ x + (1 | g)", pooling=pooling).fit(X, y)
    tree = model.to_datatree(draws=1000, random_state=0)
    drawn = tree["posterior"]["sigma"].to_numpy().ravel()
    assert len(np.unique(drawn)) == drawn.size == 1000 * model.chains
    # (n - p) s^2 / sigma^2 is chi-squared under the Jeffreys prior, from which the default is not far
    assert np.std(drawn) == pytest.approx(model.summary().loc["sigma", "sd"], rel=0.05)


def test_where_nodes_are_all_there_is_a_wrong_end_is_told(monkeypatch):
    settings = IntegrationSettings(cheap_nodes=0, dearest_nodes=0, rough_surface=(0.0, 0.0), nodes_per_replicate=(4, 2))
    monkeypatch.setattr(PartialPoolingRegressor, "_integration", settings)
    X, y = simulate(150, 2)
    with pytest.warns(ConvergenceWarning, match=r"sd or ends of the interval known to no more than 0\.1 posterior sds"):
        model = PartialPoolingRegressor("y ~ x + (x | g)").fit(X, y)
    assert model._learnt.fitted.posterior.law is None
    ends, _ = errors(model, n_nodes=8192)
    assert ends.max() > 0.1  # which is true


# The surface


def nodes_of(log_density, d, n=32):
    """Return nodes of a standard normal proposal, their log density, and weights."""
    theta = stats.norm.ppf(unit_cube_points(d, n, salt=5)) * 1.2
    values = log_density(theta)
    weight = np.exp(values + 0.5 * np.sum((theta / 1.2) ** 2, axis=1))
    return theta, values, weight / weight.sum()


def test_a_cubic_log_density_is_found_and_its_quantiles_are_those_of_quadrature():
    def log_density(x):
        return -0.5 * x[:, 0] ** 2 - 0.4 * x[:, 1] ** 2 + 0.3 * x[:, 0] * x[:, 1] - 0.02 * x[:, 0] ** 3

    surface = fit_surface(*nodes_of(log_density, 2))
    assert surface.degree == 3
    assert surface.error < 1e-9
    assert surface.misplaced < 1e-9
    points, weight, replicate = surface.quasi_random_points()
    assert np.bincount(replicate).tolist() == [len(points) // 16] * 16
    grid = np.linspace(-9, 9, 1201)
    mass = np.exp(log_density(np.stack(np.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2))).reshape(1201, -1)
    # beyond 6 sds the cubic grows
    mass[np.abs(grid) > 6.5] = 0.0
    for k in range(2):
        marginal = np.cumsum(mass.sum(axis=1 - k)) / mass.sum()
        order = np.argsort(points[:, k])
        found = np.interp([0.025, 0.5, 0.975], np.cumsum(weight[order]), points[order, k])
        np.testing.assert_allclose(found, np.interp([0.025, 0.5, 0.975], marginal, grid), atol=0.02)


def test_a_coordinate_on_a_grid_is_part_of_the_surface():
    # log sigma given theta is normal about 0.3 theta with sd 0.7
    theta, values, weight = nodes_of(lambda x: -0.5 * x[:, 0] ** 2, 1)
    offset = np.arange(-6.0, 7.0, 0.8)
    grid = 0.3 * theta + 0.7 * offset
    conditional = np.tile(stats.norm.pdf(offset) / stats.norm.pdf(offset).sum(), (len(theta), 1))
    surface = fit_surface(theta, values, weight, grid, conditional)
    assert surface.error < 1e-6
    points, weight, _ = surface.quasi_random_points()
    covariance = np.cov(points.T, aweights=weight)
    np.testing.assert_allclose(covariance, [[1.0, 0.3], [0.3, 0.09 + 0.49]], atol=0.01)


def test_no_surface_without_a_maximum_or_without_nodes_to_determine_it(rng):
    bowl = nodes_of(lambda x: 0.1 * x[:, 0] ** 2 - 0.5 * x[:, 1] ** 2, 2)
    assert fit_surface(*bowl) is None
    # 7 coordinates: 36 coefficients of second degree want 72 nodes
    assert fit_surface(*nodes_of(lambda x: -0.5 * np.sum(x**2, axis=1), 7, n=4)) is None
    assert fit_surface(*nodes_of(lambda x: -0.5 * np.sum(x**2, axis=1), 7, n=8)).degree == 2


def test_a_log_density_that_is_no_polynomial_is_seen_as_such():
    surface = fit_surface(*nodes_of(lambda x: stats.t.logpdf(x[:, 0], 3) - 0.5 * x[:, 1] ** 2, 2))
    assert surface is None or surface.misplaced > 0.01


def test_monomials_by_degree():
    z = np.array([[2.0, 3.0], [5.0, -1.0]])
    x, y = z.T
    wanted = [x**0, x, y, x**2, x * y, y**2, x**3, x**2 * y, x * y**2, y**3]
    np.testing.assert_allclose(monomials(z, 3), np.stack(wanted, axis=1))


def test_a_fit_is_the_same_after_a_pickle_and_json():
    from hbsk import from_json, to_json

    model = fit(1500, 2)
    assert model._learnt.fitted.posterior.law.surface is not None
    again = from_json(to_json(model))
    pd.testing.assert_frame_equal(again.summary(), model.summary(), check_exact=True)
