"""Scores of points, normal distributions and intervals, against their definitions."""

import numpy as np
import pytest
from scipy import integrate, stats

from hbsk.model_selection import _scores


def test_crps_is_the_integral_it_is_defined_as():
    y, mean, sd = np.array([1.3, -4.0, 0.2]), np.array([0.4, 2.0, 0.3]), np.array([0.7, 3.1, 1.2])
    expected = []
    for one, m, s in zip(y, mean, sd, strict=True):
        below = integrate.quad(lambda x, m=m, s=s: stats.norm.cdf(x, m, s) ** 2, -60, one, limit=400)[0]
        above = integrate.quad(lambda x, m=m, s=s: stats.norm.sf(x, m, s) ** 2, one, 60, limit=400)[0]
        expected.append(below + above)
    assert _scores.crps(y, mean, sd) == pytest.approx(np.mean(expected), rel=1e-6)
    assert _scores.log_score(y, mean, sd) == pytest.approx(-stats.norm.logpdf(y, mean, sd).mean())


def test_scores_at_the_edges():
    y, mean = np.array([1.0, 2.0]), np.array([1.5, 2.0])
    assert _scores.crps(y, mean, np.zeros(2)) == pytest.approx(0.25)
    assert _scores.crps(y, mean, np.array([1.0, np.inf])) == np.inf
    assert _scores.log_score(y, mean, np.array([1.0, np.inf])) == np.inf
    assert _scores.log_score(y[:1], mean[:1], np.zeros(1)) == np.inf
    assert _scores.log_score(y[1:], mean[1:], np.zeros(1)) == -np.inf


def test_intervals():
    interval = _scores.normal_interval(np.array([0.0, 10.0]), np.array([1.0, 2.0]))
    np.testing.assert_allclose(interval, [[-1.64485, 1.64485], [6.71029, 13.28971]], atol=1e-5)
    assert _scores.coverage(np.array([1.64, 13.3]), interval) == 0.5
    assert _scores.coverage(interval[:, 0], interval) == 1.0
    assert np.isnan(_scores.coverage(np.array([1.64, 13.3]), np.where(interval == interval[0, 0], np.nan, interval)))
    assert _scores.width(interval) == pytest.approx(1.644854 * 3)
