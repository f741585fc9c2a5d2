"""Is the Monte Carlo error that the marginal engine reports the true one? Random problems, and long runs of them."""

from dataclasses import replace

import numpy as np

from hbsk._engine.integrate import monte_carlo_error
from hbsk._engine.node_placement import monitored_values
from hbsk._engine.priors import EnginePriors
from hbsk._engine.sd_prior import SdPrior
from hbsk._engine.settings import IntegrationSettings
from hbsk._posterior.integrated import fit_marginal
from tests.dense import Problem


def random_problem(rng, small=False):
    """A problem of any kind the engine takes: few or many groups and rows, sds that may be zero, any correlation."""
    q, p = int(rng.choice([1, 1, 2, 2, 3] if small else [1, 1, 2, 2, 3, 4])), int(rng.integers(1, 5))
    n_groups = int(rng.choice([3, 5, 8, 20] if small else [3, 5, 8, 20, 60, 300]))
    sizes = rng.poisson(rng.choice([1.5, 4, 15, 60]) * rng.gamma(1.5, 1 / 1.5, n_groups)) + 1
    codes = np.repeat(np.arange(n_groups), sizes)
    n = len(codes)
    columns = np.column_stack([np.ones(n), rng.normal(size=(n, p + 3))])
    tau = 10.0 ** rng.uniform(-1.5, 1, q) * (rng.random(q) < 0.85)
    root = np.tril(rng.normal(size=(q, q)))
    root /= np.linalg.norm(root, axis=1, keepdims=True)
    effects = rng.normal(size=(n_groups, q)) @ root.T * tau
    standard_error = rng.uniform(0.3, 2.0, n) if rng.random() < 0.25 else None
    noise = rng.normal(size=n) * (1.0 if standard_error is None else standard_error)
    y = columns[:, :p] @ rng.normal(size=p) + np.sum(columns[:, :q] * effects[codes], axis=1) + noise
    problem = Problem(columns[:, :p], columns[:, :q], codes, n_groups, y, None, standard_error)
    scale = y.std()
    group_sd = {
        "HalfNormal": SdPrior("HalfNormal", {"sigma": 2.5 * scale}),
        "HalfCauchy": SdPrior("HalfCauchy", {"beta": scale}),
        "Exponential": SdPrior("Exponential", {"lam": 1 / scale}),
        "HalfStudentT": SdPrior("HalfStudentT", {"nu": 4.0, "sigma": scale}),
    }[str(rng.choice(["HalfNormal", "HalfCauchy", "Exponential", "HalfStudentT"]))]
    residual_sd = None if standard_error is not None else SdPrior("HalfStudentT", {"nu": 4.0, "sigma": scale})
    blocks = (tuple(range(q)),) if rng.random() < 0.6 else tuple((k,) for k in range(q))
    sds = np.full(p, 2.5 * scale)
    return problem, EnginePriors(np.zeros(p), sds, residual_sd, [group_sd] * q, blocks, (1.0,) * len(blocks))


# without quadrature, which has no such errors
USUAL = IntegrationSettings(cells_for_quadrature=0)


def estimate(problem, priors, settings=USUAL):
    """Return the fit; means, sds and reported errors of the values that the engine watches."""
    fit = fit_marginal(problem.collect(), priors, settings=settings)
    watched = monitored_values(fit.posterior.tails)
    return fit, *monte_carlo_error(watched(fit.nodes.evaluated), fit.nodes.weight, fit.nodes.replicate)


def long_run(problem, priors, max_nodes=40_000):
    """The same with other random points and very many more nodes."""
    many = replace(USUAL, salt=1000, error_target=1e-9, nodes_per_replicate=(64, 64), max_nodes=max_nodes)
    return estimate(problem, priors, many)


def deviations(problem, priors, max_nodes=40_000):
    """Return the fit, |difference to a long run| in reported errors, and reported errors in posterior sds."""
    fit, mean, sd, error = estimate(problem, priors)
    _, exact, _, left = long_run(problem, priors, max_nodes)
    # the long run has an error of its own; what cannot be told from rounding is none
    return fit, np.abs(mean - exact) / np.maximum(np.hypot(error, left), 1e-9 * sd), error / sd
