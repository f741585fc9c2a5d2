"""Pareto smoothed weights: those of ArviZ, without importing it."""

import numpy as np
import pytest
from arviz_stats.base import array_stats
from scipy import stats

from hbsk._engine.pareto import smoothed_weights


def log_weights(kind, n, rng):
    match kind:
        case "normal":
            return rng.normal(size=n) * rng.choice([0.01, 0.3, 1, 3, 10])
        case "pareto":
            shape = rng.choice([-0.8, -0.3, 0.2, 0.7, 1.5])
            return np.log(stats.genpareto(shape, loc=0.1).rvs(n, random_state=rng))
        case "with zeros":
            return np.where(np.arange(n) % 7, rng.normal(size=n), -np.inf)
        case "bounded":
            return -rng.exponential(size=n) * rng.choice([1e-6, 1, 20])
        case "one above all":
            return np.append(rng.normal(size=n - 1), 50.0)


@pytest.mark.parametrize("kind", ["normal", "pareto", "with zeros", "bounded", "one above all"])
def test_weights_and_k_are_those_of_arviz(kind):
    rng = np.random.default_rng(len(kind))
    for n in [25, 26, 60, 225, 226, 512, 1024, 4000] * 3:
        log_weight = log_weights(kind, n, rng) + 100 * rng.normal()
        weight, k = smoothed_weights(log_weight)
        wanted, wanted_k = array_stats.psislw(-log_weight)  # it smooths the weights of exp(-argument)
        np.testing.assert_allclose(weight, np.exp(wanted), atol=1e-12)
        # NaN where a quarter of the tail is one weight; a mean of logarithms near zero has fewer digits
        assert k == pytest.approx(wanted_k, rel=1e-11, abs=1e-12, nan_ok=True)


def test_a_flat_top_is_left_alone():
    # ArviZ raises "All tail values are the same"
    log_weight = np.minimum(np.random.default_rng(0).normal(size=400), 0.3)
    weight, k = smoothed_weights(log_weight)
    np.testing.assert_allclose(weight, np.exp(log_weight) / np.exp(log_weight).sum(), rtol=1e-14)
    assert k == 0.0
