"""Ends of intervals and sds of the variance parameters, against an integral of the same log density by other means.

The log density at a point is exact (tests/test_marginal.py has its dense twin). With one group sd it is integrated by
the trapezoid rule; with more, by importance sampling with very many nodes of other random numbers than those of a fit,
drawn from kernels. Sigma is integrated over splines of SciPy's through the engine's grid.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.interpolate import CubicSpline

from hbsk import PartialPoolingRegressor
from hbsk._engine import integrate, mode_search, split_t
from hbsk._posterior.diagnostics import variance_names

LEVELS = np.array([0.025, 0.055, 0.945, 0.975])
# Levels of sigma at each point.
N_LEVELS = 16


@dataclass(frozen=True)
class Ends:
    """Posterior of the variance parameters: sds (k,) and quantiles (k, 4)."""

    names: list[str]
    sd: np.ndarray
    quantile: np.ndarray


def simulate(n_groups, n_varying, group_sd=(0.6, 0.4), correlation=0.3, seed=0, rows=(2, 20)):
    """Return a frame with x and g, and y."""
    rng = np.random.default_rng([n_groups, n_varying, seed])
    g = np.repeat(np.arange(n_groups), rng.integers(*rows, n_groups))
    x = rng.normal(size=len(g))
    root = np.linalg.cholesky([[1, correlation], [correlation, 1]])
    effects = rng.normal(size=(n_groups, 2)) @ root.T * group_sd
    y = 1 + 0.5 * x + effects[g, 0] + (n_varying > 1) * effects[g, 1] * x + rng.normal(size=len(g))
    return pd.DataFrame({"x": x, "g": g}), y


def fit(n_groups, n_varying, priors=None, **simulated):
    """Fit one simulated data set."""
    X, y = simulate(n_groups, n_varying, **simulated)
    formula = "y ~ x + (x | g)" if n_varying > 1 else "y ~ x + (1 | g)"
    return PartialPoolingRegressor(formula, priors=priors, inference="marginal").fit(X, y)


def found(model) -> Ends:
    """Return what the package answers: the summary's sds, and quantiles of the law it takes its ends from."""
    specification, posterior = model._learnt.frame.specification, model._learnt.fitted.posterior
    summary, names = model.summary(coverage=0.89), variance_names(specification, posterior.variance_nodes())
    nodes, weight, _ = posterior.variance_law()
    values = _values(specification, nodes)
    answer = Ends(names, summary.loc[names, "sd"].to_numpy(), _quantiles(values, weight))
    np.testing.assert_allclose(answer.quantile[:, 1:3], summary.loc[names, ["eti89_lb", "eti89_ub"]])
    return answer


@np.errstate(all="ignore")  # far out numbers leave floating point
def truth(model, n_nodes=32_768) -> Ends:
    """Integrate the log density of a fitted model anew."""
    specification, fitted = model._learnt.frame.specification, model._learnt.fitted
    posterior, engine = fitted.posterior, fitted.model
    theta, weight = _trapezoid(engine) if engine.parameters.n_dim == 1 else _kernels(engine, n_nodes)
    points = [engine.evaluate(part) for part in np.array_split(theta, 1 + len(theta) // 512)]
    log_sigma = np.concatenate([_sigmas(part.log_sigma, part.weight) for part in points])
    factor = np.concatenate([part.variance.relative_factor for part in points])
    n = log_sigma.shape[1]
    nodes = posterior._in_users_units(np.exp(log_sigma.ravel()), np.repeat(factor, n, axis=0))
    values, weight = _values(specification, nodes), np.repeat(weight / n, n)
    sd = np.sqrt(weight @ (values - weight @ values) ** 2)
    return Ends(variance_names(specification, nodes), sd, _quantiles(values, weight))


def _values(specification, nodes):
    from hbsk._posterior.diagnostics import variance_values

    return variance_values(specification, nodes)


def _trapezoid(engine, n=4001):
    def log_density(theta):
        values = np.concatenate([engine.evaluate(part).log_density for part in np.array_split(theta, 10)])
        return np.where(np.isfinite(values), values, -np.inf)

    theta = np.linspace(-40, 40, 3001)[:, None]
    values = log_density(theta)
    inside = theta[values > values.max() - 30, 0]
    step = theta[1, 0] - theta[0, 0]
    theta = np.linspace(inside.min() - step, inside.max() + step, n)[:, None]
    values = log_density(theta)
    weight = np.exp(values - values.max())
    return theta, weight / weight.sum()


def _kernels(engine, n_nodes):
    """Two rounds of kernels, each fitted to weighted nodes of the round before, and the nodes of a third."""
    mode, precision = mode_search.find_mode(engine.value_and_gradient, engine.parameters.theta_of(0.5, [0.3, 0.2]))
    proposal, broad = split_t.first_proposals(lambda t: engine.evaluate(t).log_density, mode, precision)
    for salt, size in ((901, n_nodes // 8), (902, n_nodes // 4), (903, n_nodes)):
        both = [p for p in (proposal, broad) if p is not None]
        drawn = [
            p.points(integrate.unit_cube_points(p.n_uniforms, size // 16, salt + 10 * k)) for k, p in enumerate(both)
        ]
        theta = np.concatenate(drawn)
        log_density = np.concatenate(
            [engine.evaluate(part).log_density for part in np.array_split(theta, 1 + size // 512)]
        )
        mixture = np.logaddexp.reduce([p.log_density(theta) for p in both])
        weight = np.exp(log_density - mixture - np.max(log_density - mixture))
        weight /= weight.sum()
        nodes = integrate.Nodes([], theta, weight, np.zeros(len(theta), int), 0.0, 0.0, weight)
        proposal, broad = integrate.kernels_on_nodes(nodes), None
    assert 1 / np.sum(weight**2) >= 3500
    return theta, weight


def _sigmas(log_sigma, weight):
    """Return log sigma at evenly spaced levels, (n_nodes, N_LEVELS)."""
    n, n_grid = weight.shape
    if n_grid == 1:
        return log_sigma
    at, fine = np.arange(n_grid), np.linspace(0, n_grid - 1, 40 * (n_grid - 1) + 1)
    density = np.exp(CubicSpline(at, np.log(np.maximum(weight, 1e-290)), axis=1)(fine))
    position = CubicSpline(at, log_sigma, axis=1)(fine)
    below = np.cumsum(density, axis=1) - 0.5 * density
    # offsets of neighbours are far apart, so that the levels of a few nodes fill (0, 1)
    levels = (np.arange(N_LEVELS) + np.arange(n)[:, None] * 0.6180339887 % 1) / N_LEVELS
    return np.stack([np.interp(levels[i], below[i] / density[i].sum(), position[i]) for i in range(n)])


def _quantiles(values, weight):
    answer = []
    for column in values.T:
        order = np.argsort(column)
        below = np.cumsum(weight[order]) - 0.5 * weight[order]
        answer.append(np.interp(LEVELS, below, column[order]))
    return np.array(answer)


def errors(model, **options):
    """Return how far ends are off in posterior sds, (k, 4), and sds as a share, (k,)."""
    answer, exact = found(model), truth(model, **options)
    return np.abs(answer.quantile - exact.quantile) / exact.sd[:, None], np.abs(answer.sd / exact.sd - 1)
