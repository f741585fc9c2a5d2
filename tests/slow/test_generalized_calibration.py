"""Simulation-based calibration of the engine of binary and count responses, as in `test_calibration`.

Priors are fixed, parameters are drawn from them and data from the parameters; then the rank of every true value among
draws of its posterior is uniform (Talts et al. 2018, arXiv:1804.06788), and so is that of the log likelihood (Modrak et
al. 2023, Bayesian Analysis).
"""

import numpy as np
import pytest
from scipy import stats
from scipy.special import expit

from hbsk._engine.generalized.data import Responses
from hbsk._engine.priors import EnginePriors
from hbsk._engine.sd_prior import SdPrior
from hbsk._posterior.generalized import fit_generalized
from hbsk._posterior.response import response_interval
from tests.calibration import uniformity_p_value

pytestmark = pytest.mark.slow

N_DRAWS = 199
N_GROUPS, N_ROWS = 12, 72
FALSE_ALARMS = 0.001
# Family, varying columns, largest number of trials or exposure, number of fits.
SETTINGS = {
    "binary": ("binomial", 1, 1, 2000),
    "binomial": ("binomial", 1, 12, 2000),
    "counts": ("poisson", 1, 3, 2000),
    "binary, slopes": ("binomial", 2, 1, 500),
    "counts, slopes": ("poisson", 2, 3, 500),
}
SDS = {"binomial": ([1.5, 1.0], 1.5), "poisson": ([1.0, 0.5], 0.8)}


def fixed_rows():
    """Return columns and unequal groups, the last of one row; the column has mean 0, where priors refer to."""
    rng = np.random.default_rng(1)
    codes = np.sort(np.append(rng.integers(0, N_GROUPS - 1, N_ROWS - 1), N_GROUPS - 1))
    column = rng.normal(size=N_ROWS)
    return np.column_stack([np.ones(N_ROWS), column - column.mean()]), codes


def simulate(family, q, most, rng):
    """Return responses, their true predictor, and the true parameters."""
    x, codes = fixed_rows()
    sds, sd_of_tau = SDS[family]
    b, tau = rng.normal(size=2) * sds, np.abs(rng.normal(size=q)) * sd_of_tau
    # LKJ(1) of two columns is flat
    correlation = rng.uniform(-1, 1)
    noise = rng.normal(size=(N_GROUPS, q))
    if q == 2:
        noise[:, 1] = correlation * noise[:, 0] + np.sqrt(1 - correlation**2) * noise[:, 1]
    effects = tau * noise
    predictor = x @ b + np.sum(x[:, :q] * effects[codes], axis=1)
    if family == "binomial":
        size = rng.integers(1, most + 1, N_ROWS).astype(float)
        y = rng.binomial(size.astype(int), expit(predictor)).astype(float)
    else:
        size = rng.uniform(0.5, most, N_ROWS)
        y = rng.poisson(size * np.exp(predictor)).astype(float)
    responses = Responses(family, y, size, x, x[:, :q], codes, N_GROUPS, True, 0)
    return responses, predictor, (b, tau, correlation, effects)


def log_likelihood(responses, predictor):
    if responses.family == "binomial":
        return stats.binom.logpmf(responses.y, responses.size, expit(predictor)).sum(axis=-1)
    return stats.poisson.logpmf(responses.y, responses.size * np.exp(predictor)).sum(axis=-1)


def ranks_of_fit(family, q, most, seed, width=1.0):
    """Return ranks of the truth, between 0 and 1, and whether intervals of 90 % of some rows cover it."""
    rng = np.random.default_rng([seed, q, most])
    responses, predictor, (b, tau, correlation, effects) = simulate(family, q, most, rng)
    sds, sd_of_tau = SDS[family]
    group_sd = [SdPrior("HalfNormal", {"sigma": width * sd_of_tau})] * q
    blocks, etas = (((0, 1),), (1.0,)) if q == 2 else ((), ())
    priors = EnginePriors(np.zeros(2), np.array(sds), None, group_sd, blocks, etas)
    posterior = fit_generalized(responses, priors).posterior
    draws = posterior.joint_draws(N_DRAWS, rng, [np.arange(N_GROUPS)])
    drawn = draws.common @ responses.x.T
    for k in range(q):
        drawn += draws.effects[0][:, responses.codes, k] * responses.z[:, k]
    values = {"b0": (draws.common[:, 0], b[0]), "b1": (draws.common[:, 1], b[1])}
    for k in range(q):
        values[f"tau{k}"] = draws.variance.group_sd[0][:, k], tau[k]
        values[f"u first {k}"] = draws.effects[0][:, 0, k], effects[0, k]
        values[f"u last {k}"] = draws.effects[0][:, -1, k], effects[-1, k]
    if q == 2:
        values["correlation"] = draws.variance.correlation[0][:, 0, 1], correlation
    values["log likelihood"] = log_likelihood(responses, drawn), log_likelihood(responses, predictor)
    ranks = {name: (np.sum(drawn < true) + rng.random()) / (N_DRAWS + 1) for name, (drawn, true) in values.items()}
    rows = slice(0, N_ROWS, 9)
    ends = response_interval(
        posterior, responses.x[rows], [responses.z[rows]], [responses.codes[rows]], np.array([0.05, 0.95])
    )
    true = expit(predictor[rows]) if family == "binomial" else np.exp(predictor[rows])
    return ranks, np.mean((ends[:, 0] < true) & (true < ends[:, 1]))


def calibrated(name, n_fits=None, width=1.0):
    family, q, most, most_fits = SETTINGS[name]
    ranks, covered = zip(
        *(ranks_of_fit(family, q, most, seed, width) for seed in range(n_fits or most_fits)), strict=True
    )
    p_values = {key: uniformity_p_value(np.array([rank[key] for rank in ranks])) for key in ranks[0]}
    return p_values, np.array(covered)


@pytest.mark.parametrize("name", SETTINGS)
def test_ranks_are_uniform_and_intervals_cover(name):
    p_values, covered = calibrated(name)
    assert min(p_values.values()) > FALSE_ALARMS / len(p_values), p_values
    error = covered.std() / np.sqrt(len(covered))
    assert abs(covered.mean() - 0.9) < 4 * error, covered.mean()


def test_a_wrong_prior_is_found_out():
    p_values, _ = calibrated("binary", 400, width=2.5)
    assert p_values["tau0"] < FALSE_ALARMS / len(p_values), p_values
