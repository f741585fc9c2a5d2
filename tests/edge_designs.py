"""Small designs at the edges of binary and count data, and how far what is said of them is from dense grids."""

import numpy as np
from scipy.special import expit

from hbsk._engine.generalized.data import Responses
from hbsk._engine.priors import EnginePriors
from hbsk._engine.sd_prior import SdPrior
from hbsk._posterior.generalized import fit_generalized
from hbsk._posterior.prediction import mixture_quantiles
from hbsk._posterior.response import inverse_link, response_interval, response_points
from tests.edge_grids import grid_of

LEVELS = np.array([0.05, 0.95])
SD_OF_TAU, SD_OF_INTERCEPT = 2.5, {"binomial": 1.5, "poisson": 2.5}
KINDS = ("zeros and ones", "no counts", "single rows", "single counts", "a million trials", "exposures", "separated")


def design_of(kind, number):
    """Return family, y, size, columns, codes and sds of priors of coefficients of a random design."""
    rng = np.random.default_rng([KINDS.index(kind), number])
    n_groups = int(rng.integers(2, 9))
    codes, size, predictor = np.arange(n_groups), np.ones(n_groups), rng.normal(0, 1.5, n_groups)
    family = "poisson" if kind in ("no counts", "single counts", "exposures") else "binomial"
    if kind == "separated":
        codes = np.repeat(codes, rng.integers(2, 6))
        flag = rng.random(len(codes)) < 0.5
        flag[:2] = False, True
        y = flag if number % 2 else flag | (rng.random(len(codes)) < 0.5)
        x = np.column_stack([np.ones(len(codes)), flag])
        return family, y.astype(float), np.ones(len(codes)), x, codes, [1.5, 2.5 / flag.std()]
    alone = rng.random(n_groups) < (0.5 if number % 3 else 1.0)
    if kind == "zeros and ones":
        size = rng.integers(1, 31, n_groups).astype(float)
        y = np.where(alone, size * rng.integers(0, 2, n_groups), rng.binomial(size.astype(int), expit(predictor)))
    elif kind == "no counts":
        size = np.exp(rng.normal(size=n_groups))
        y = np.where(alone, 0.0, rng.poisson(size * np.exp(predictor)))
    elif kind == "single rows":
        y = rng.random(n_groups) < rng.choice([0.2, 0.5, 0.9])
    elif kind == "single counts":
        y = rng.poisson(np.exp(predictor))
    elif kind == "a million trials":
        size = np.append([1e6, 1.0], 10.0 ** rng.integers(0, 7, n_groups - 2))
        y = rng.binomial(size.astype(int), expit(predictor))
    else:
        size = np.append([1e6, 1e-6], 10.0 ** rng.uniform(-6, 6, n_groups - 2))
        y = rng.poisson(size * np.exp(predictor - 1.0))
    return family, y.astype(float), size, np.ones((n_groups, 1)), codes, [SD_OF_INTERCEPT[family]]


def posterior_of(family, y, size, x, codes, sds):
    """Return the posterior of a design."""
    responses = Responses(family, y, size, x, np.ones((len(y), 1)), codes, int(codes.max()) + 1, True, 0)
    sd = SdPrior("HalfNormal", {"sigma": SD_OF_TAU})
    return fit_generalized(responses, EnginePriors(np.zeros(len(sds)), np.array(sds), None, [sd], (), ())).posterior


def errors_of(design):
    """Return errors of ends of intervals of 90 %, in sds, and relative errors of sds: the largest of a kind.

    The sd of a rate of counts, which the far tail of tau rules, is not among them.
    """
    posterior, grid = posterior_of(*design), grid_of(*design, SD_OF_TAU)
    family, x = design[0], design[3]
    groups = np.arange(posterior.n_groups[0])
    row = np.append(1.0, x[:, 1:].mean(axis=0))
    rows = np.tile(row, (len(groups), 1)), [np.ones((len(groups), 1))], [groups]
    found = {"predictor": [], "rate": [], "common": [], "tau": []}
    predictor, (_, variance) = mixture_quantiles(posterior.row_mixture(*rows), LEVELS), posterior.row_moments(*rows)
    rate, sd_of_rate = response_interval(posterior, *rows, LEVELS), np.empty(len(groups))
    for at, points, weight in response_points(posterior, *rows):
        values = inverse_link(family, points)
        sd_of_rate[at] = np.sqrt(weight @ (values - weight @ values) ** 2)
    for j in groups:
        found["predictor"].append((grid.predictor[j], predictor[j], np.sqrt(variance[j])))
        found["rate"].append((grid.rate[j], rate[j], sd_of_rate[j] if family == "binomial" else grid.rate[j].sd))
    for k, law in enumerate(grid.common):
        contrast = row if k == 0 else np.eye(len(row))[k]
        one = contrast[None], [np.zeros((1, 1))], [np.zeros(1, dtype=int)]
        ends = mixture_quantiles(posterior.row_mixture(*one), LEVELS)[0]
        found["common"].append((law, ends, np.sqrt(posterior.row_moments(*one)[1][0])))
    nodes, weight, _ = posterior.variance_law()
    taus = nodes.group_sd[0][:, 0]
    order = np.argsort(taus)
    ends = np.interp(LEVELS, np.cumsum(weight[order]) - 0.5 * weight[order], taus[order])
    found["tau"].append((grid.tau, ends, np.sqrt(weight @ (taus - weight @ taus) ** 2)))
    return {
        name: (
            max(np.max(np.abs(ends - law.ends)) / law.sd for law, ends, _ in values),
            max(abs(sd / law.sd - 1.0) for law, _, sd in values),
        )
        for name, values in found.items()
    }
