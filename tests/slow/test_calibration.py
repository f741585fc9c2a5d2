"""Simulation-based calibration: posteriors are right on average over their own model, and intervals cover.

Each setting is fitted to N_FITS simulated data sets. A quantity fails where its ranks stray from uniform as far as they
would in one of FALSE_ALARMS / (number of quantities) of all runs; seeds are fixed, so that a test that passes keeps
passing. docs/development/calibration.md shows a longer run of the same.
"""

import numpy as np
import pytest

from tests.calibration import SETTINGS, calibrate, coverage_error, group, normal, uniformity_p_value

pytestmark = pytest.mark.slow

N_FITS = 300
FALSE_ALARMS = 0.001


@pytest.mark.parametrize("name", SETTINGS)
def test_ranks_are_uniform_and_intervals_cover(name):
    uniform, covered = calibrate(SETTINGS[name], range(N_FITS))
    p_values = {quantity: uniformity_p_value(values) for quantity, values in uniform.items()}
    worst = min(p_values, key=p_values.get)
    assert p_values[worst] > FALSE_ALARMS / len(p_values), (worst, p_values[worst])
    # Many quantities slightly off would pass one by one; quantities of one fit hang together, hence the wide margin.
    assert np.mean(np.array(list(p_values.values())) < 0.05) < 0.25, p_values
    for (groups, kind, coverage), hits in covered.items():
        assert abs(hits.mean() - coverage) < 4 * coverage_error(hits, coverage), (groups, kind, coverage, hits.mean())


@pytest.mark.parametrize(
    ("name", "key", "prior", "seen_in"),
    [
        # Half as wide as the true one.
        ("intercepts only", "1|g", group("HalfNormal", sigma=0.5), "sd 1|g"),
        ("extreme imbalance", "corr|g", ("LKJ", {"eta": 3.0}), "corr 1|g, x|g"),
        ("known standard errors", "Intercept", normal(3.0, 1.5), "Intercept"),
        ("three groups", "sigma", ("Uniform", {"lower": 0.1, "upper": 4.0}), "sigma"),
    ],
)
@pytest.mark.filterwarnings("ignore::hbsk.exceptions.ConvergenceWarning")
def test_a_wrong_prior_is_found_out(name, key, prior, seen_in):
    """What the test above can see in 300 fits: priors wrong by a factor of two, or by two of their sds.

    Data outweigh priors: a group sd with a prior 1.6 times too wide, or an intercept off by 0.7 sds, is not seen. With
    three groups, one fit of the 300 ends in chains that say they did not converge.
    """
    setting = SETTINGS[name]
    uniform, _ = calibrate(setting, range(N_FITS), intervals={}, priors=setting.priors | {key: prior})
    assert uniformity_p_value(uniform[seen_in]) < FALSE_ALARMS / len(uniform)


def test_independence_where_effects_are_correlated_is_found_out():
    setting = SETTINGS["extreme imbalance"]
    priors = {key: value for key, value in setting.priors.items() if not key.startswith("corr")}
    results = [_correlation_blind(setting, seed, priors) for seed in range(N_FITS)]
    assert uniformity_p_value(np.array(results)) < FALSE_ALARMS


def _correlation_blind(setting, seed, priors):
    """Rank of the sum of products of true effects, in the posterior of a model that has no correlation."""
    from hbsk import PartialPoolingRegressor
    from tests.calibration import N_DRAWS, draw_truth, observe

    rng = np.random.default_rng(seed)
    truth = draw_truth(setting, len(setting.labels), rng)
    y, _ = observe(setting, setting.rows, np.searchsorted(setting.labels, setting.rows["g"]), truth, rng)
    estimator = PartialPoolingRegressor(setting.formula, priors=priors, correlated=False).fit(setting.rows, y)
    draws = estimator._learnt.fitted.posterior.joint_draws(N_DRAWS, rng, [np.arange(len(setting.labels))])
    products = np.sum(np.prod(draws.effects[0], axis=2), axis=1)
    standard = np.prod(draws.variance.group_sd[0], axis=1)
    true = np.sum(np.prod(truth.effects, axis=1)) / np.prod(truth.group_sd)
    return (np.sum(products / standard < true) + rng.random()) / (N_DRAWS + 1)
