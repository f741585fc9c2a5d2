"""Ends of intervals and sds of the variance parameters up to 100,000 groups, with sds of zero, and under other priors.

The truth is a quadrature of the exact log density, or at least 4,096 quasi-random nodes of it with an effective size of
3,500.
"""

import numpy as np
import pandas as pd
import pytest

from hbsk import PartialPoolingRegressor
from tests.calibration import draw_correlation, draw_sd, group, normal, uniformity_p_value
from tests.tails import errors, fit

pytestmark = pytest.mark.slow

MOST_AT_ENDS, MOST_OF_SD = 0.05, 0.02
N_FITS = 300


def check(model, n_nodes):
    ends, sds = errors(model, n_nodes=n_nodes)
    assert ends.max() <= MOST_AT_ENDS, ends
    assert sds.max() <= MOST_OF_SD, sds


@pytest.mark.parametrize(
    ("n_groups", "n_nodes", "simulated"),
    [
        (3, 65_536, {}),
        (10, 65_536, {}),
        (100, 65_536, {}),
        (100, 65_536, {"group_sd": (0.6, 0.0)}),
        (100, 65_536, {"group_sd": (0.0, 0.0)}),
        (600, 32_768, {"correlation": 0.98, "rows": (2, 9)}),  # a polynomial would put the correlation off by 0.13
        (1000, 65_536, {}),
        (1000, 65_536, {"group_sd": (0.6, 0.0)}),
        (10_000, 8192, {}),
        (10_000, 131_072, {"group_sd": (0.6, 0.0)}),  # 16,384 are off by half of what is allowed
        (100_000, 8192, {}),
    ],
)
def test_intercepts_and_slopes(n_groups, n_nodes, simulated):
    check(fit(n_groups, 2, **simulated), n_nodes)


@pytest.mark.parametrize("n_groups", [3, 10, 100, 1000, 10_000, 100_000])
@pytest.mark.parametrize("group_sd", [0.6, 0.0])
def test_intercepts(n_groups, group_sd):
    check(fit(n_groups, 1, group_sd=(group_sd, 0.4)), 0)


@pytest.mark.parametrize("n_groups", [5, 40, 1000])
@pytest.mark.parametrize(
    "prior",
    [
        ("HalfCauchy", {"beta": 1.0}),
        ("InverseGamma", {"alpha": 2.0, "beta": 0.5}),
        ("Uniform", {"lower": 0.0, "upper": 2.0}),
        ("Gamma", {"alpha": 0.5, "beta": 1.0}),
    ],
)
def test_priors_of_an_sd(n_groups, prior):
    family, arguments = prior
    priors = {"1|g": group(family, **arguments)}
    check(fit(n_groups, 1, priors=priors), 32_768)


@pytest.mark.parametrize("eta", [0.5, 50.0])
@pytest.mark.parametrize("n_groups", [10, 200])
def test_priors_of_a_correlation(n_groups, eta):
    check(fit(n_groups, 2, priors={"corr|g": ("LKJ", {"eta": eta})}), 65_536)


# Simulation-based calibration: ranks of the true sds and correlation among draws. It cannot see 5 % of an sd, which the
# tests above can; it sees wrong densities.


def ranks(n_groups, size, sds, eta, seed):
    """Return uniform numbers for sigma, the group sds and the correlation of one simulated data set."""
    rng = np.random.default_rng([n_groups, size, seed])
    sigma, tau = draw_sd(("HalfNormal", {"sigma": 1.0}), rng), np.array([draw_sd(sd, rng) for sd in sds])
    correlation = draw_correlation(len(sds), eta, rng) if len(sds) > 1 else np.eye(len(sds))
    g = np.repeat(np.arange(max(n_groups, 1)), size)
    x = rng.normal(size=len(g))
    columns = np.column_stack([np.ones(len(g)), x])
    # the prior of the intercept is that at the means of the columns
    b = rng.normal(size=2)
    y = b[0] + b[1] * (x - x.mean()) + sigma * rng.normal(size=len(g))
    if n_groups:
        effects = rng.multivariate_normal(np.zeros(len(sds)), correlation, n_groups) * tau
        y += np.sum(columns[:, : len(sds)] * effects[g], axis=1)
    priors = {"Intercept": normal(0.0, 1.0), "x": normal(0.0, 1.0), "sigma": ("HalfNormal", {"sigma": 1.0})}
    priors |= {term: group(sd[0], **sd[1]) for term, sd in zip(("1|g", "x|g"), sds, strict=False)}
    if len(sds) > 1:
        priors |= {"corr|g": ("LKJ", {"eta": eta})}
    formula = "y ~ x" + ("", " + (1 | g)", " + (x | g)")[len(sds)]
    pooling = "partial" if n_groups else "complete"
    model = PartialPoolingRegressor(formula, priors=priors, inference="marginal", pooling=pooling)
    model.fit(pd.DataFrame({"x": x, "g": g}), y)
    drawn = model._learnt.fitted.posterior.joint_draws(999, rng, [np.arange(1)] if n_groups else [])
    true, found = [sigma, *tau], [drawn.variance.sigma]
    if n_groups:
        found += list(drawn.variance.group_sd[0].T)
    if len(sds) > 1:
        true, found = [*true, correlation[1, 0]], [*found, drawn.variance.correlation[0][:, 1, 0]]
    return [(np.sum(values < truth) + rng.random()) / 1000 for truth, values in zip(true, found, strict=True)]


HALF_NORMAL = ("HalfNormal", {"sigma": 0.7})


@pytest.mark.parametrize(
    ("n_groups", "size", "sds", "eta"),
    [
        (0, 6, [], 1.0),
        (0, 60, [], 1.0),
        (1200, 3, [HALF_NORMAL], 1.0),
        (1200, 4, [HALF_NORMAL, HALF_NORMAL], 1.0),
        (8, 5, [("HalfCauchy", {"beta": 0.5})], 1.0),
        (8, 5, [("InverseGamma", {"alpha": 3.0, "beta": 1.0})], 1.0),
        (8, 5, [("Uniform", {"lower": 0.1, "upper": 1.5})], 1.0),
        (8, 5, [("HalfCauchy", {"beta": 0.5}), ("Uniform", {"lower": 0.1, "upper": 1.5})], 0.5),
        (8, 5, [HALF_NORMAL, ("InverseGamma", {"alpha": 3.0, "beta": 1.0})], 50.0),
        (8, 5, [HALF_NORMAL, HALF_NORMAL], 0.5),
    ],
)
def test_ranks_of_sds_and_correlations_are_uniform(n_groups, size, sds, eta):
    uniform = np.array([ranks(n_groups, size, sds, eta, seed) for seed in range(N_FITS if n_groups < 1000 else 100)])
    p_values = [uniformity_p_value(column) for column in uniform.T]
    assert min(p_values) > 0.001 / len(p_values), p_values
