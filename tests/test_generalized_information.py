"""LOO and WAIC of counts and classes against ratios of marginal likelihoods on a grid."""

import warnings
from functools import cache

import numpy as np
import pandas as pd
import pytest
from scipy.special import log_expit, logsumexp
from scipy.stats import binom

from hbsk import PartialPoolingClassifier, PartialPoolingCountRegressor
from hbsk.exceptions import ConvergenceWarning
from hbsk.model_selection import compare, loo, waic
from tests.test_counts import COUNT, EXPOSURE, X, counts

SUCCESSES = np.array([3, 2, 5, 0, 1, 6, 2, 4, 7, 3])
TRIALS = np.array([6, 5, 9, 4, 7, 8, 6, 5, 9, 8])
GROUP = np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])
FRAME = pd.DataFrame({"g": GROUP})


b, tau, z = np.linspace(-7, 7, 121), np.linspace(0.0, 11.0, 161), np.linspace(-7, 7, 141)


@cache
def evidence_of_group(successes, failures):
    """``log p(a | b, tau)`` of a group on the grid, but for coefficients: groups come again and again."""
    law = np.exp(-0.5 * z**2)
    law /= law.sum()
    eta = b[:, None, None] + tau[:, None] * z
    return np.log(np.exp(successes * log_expit(eta) + failures * log_expit(-eta)) @ law)


def log_evidence(rows):
    """``log p(y)`` of some rows under Normal(0, 1.5) and HalfNormal(2.5), on a grid of (b, tau, z_j)."""
    total = -0.5 * (b[:, None] / 1.5) ** 2 - 0.5 * (tau / 2.5) ** 2
    total[:, [0, -1]] -= np.log(2)  # trapezoid rule
    for group in np.unique(GROUP[rows]):
        at = rows[GROUP[rows] == group]
        a, m = SUCCESSES[at], TRIALS[at]
        constant = sum(binom.logpmf(a, m, 0.5) + m * np.log(2))
        total = total + constant + evidence_of_group(int(a.sum()), int((m - a).sum()))
    return logsumexp(total)


@pytest.fixture(scope="module")
def model():
    return PartialPoolingCountRegressor(family="binomial", group_features="g").fit(FRAME, SUCCESSES, trials=TRIALS)


def test_rows_are_left_out_by_ratios_of_evidence(model):
    result = loo(model, FRAME, SUCCESSES, trials=TRIALS)
    every = np.arange(10)
    expected = [log_evidence(every) - log_evidence(np.delete(every, i)) for i in every]
    np.testing.assert_allclose(result.elpd_i, expected, atol=0.02)
    assert result.elpd == pytest.approx(np.sum(expected), abs=0.05)
    assert result.p > 0


def test_groups_are_left_out_by_ratios_of_evidence(model):
    result = loo(model, FRAME, SUCCESSES, trials=TRIALS, unit="group")
    every = np.arange(10)
    expected = [log_evidence(every) - log_evidence(every[j != GROUP]) for j in range(5)]
    np.testing.assert_allclose(result.elpd_i, expected, atol=0.03)
    assert result.elpd_i.dims == ("g",)


def test_waic_is_near(model):
    for unit in ("row", "group"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # where WAIC says itself that it is not reliable
            near = waic(model, FRAME, SUCCESSES, trials=TRIALS, unit=unit)
        assert abs(near.elpd - loo(model, FRAME, SUCCESSES, trials=TRIALS, unit=unit).elpd) < 1.0


def test_binary_rows_are_those_of_successes(model):
    rows = FRAME.loc[FRAME.index.repeat(TRIALS)].reset_index(drop=True)
    y = np.concatenate([np.arange(m) < a for a, m in zip(SUCCESSES, TRIALS, strict=True)])
    fitted = PartialPoolingClassifier(group_features="g").fit(rows, y)
    by_row = loo(fitted, rows, y)
    # left out one at a time, rows of one group and class are alike
    first = by_row.elpd_i.to_series().groupby([rows["g"], y]).agg(np.ptp)
    assert (first < 1e-6).all()
    probability = np.exp(by_row.elpd_i.to_numpy())
    assert ((probability > 0) & (probability < 1)).all()
    groups = loo(fitted, rows, y, unit="group")
    ours = loo(model, FRAME, SUCCESSES, trials=TRIALS, unit="group")
    constants = pd.Series(binom.logpmf(SUCCESSES, TRIALS, 0.5) + TRIALS * np.log(2)).groupby(GROUP).sum()
    np.testing.assert_allclose(groups.elpd_i + constants.to_numpy(), ours.elpd_i, atol=1e-6)


def test_models_are_compared():
    models = {
        "partial": counts().fit(X, COUNT, exposure=EXPOSURE),
        "complete": counts(pooling="complete").fit(X, COUNT, exposure=EXPOSURE),
    }
    table = compare(models, X, COUNT, exposure=EXPOSURE)
    assert list(table.index) == ["partial", "complete"]
    assert table["elpd_diff"].iloc[1] < -20


def test_what_is_refused(model):
    with pytest.raises(ValueError, match="needs trials="):
        loo(model, FRAME, SUCCESSES)
    with pytest.raises(ValueError, match="these are others"):
        loo(model, FRAME[:5], SUCCESSES[:5], trials=TRIALS[:5])
    with pytest.raises(ValueError, match="these are others"):
        loo(model, FRAME, TRIALS - SUCCESSES, trials=TRIALS)
    with pytest.raises(ValueError, match="exposure= was given"):
        loo(model, FRAME, SUCCESSES, trials=TRIALS, exposure=1.0)
    none = PartialPoolingCountRegressor(family="binomial", group_features="g", pooling="none")
    with pytest.raises(ValueError, match="density of a new group"):
        loo(none.fit(FRAME, SUCCESSES, trials=TRIALS), FRAME, SUCCESSES, trials=TRIALS, unit="group")


def test_probabilities_of_rows_are_not_those_of_the_fit(model):
    seen = binom.logpmf(SUCCESSES, TRIALS, model.predict(FRAME))
    assert loo(model, FRAME, SUCCESSES, trials=TRIALS).elpd < seen.sum()
