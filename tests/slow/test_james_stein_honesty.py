"""What the guide says of intervals of single groups, simulated again: the true means are fixed, the noise is new.

Averaged over groups that come from the estimator's own model intervals are right (test_james_stein_coverage.py); for a
group that is chosen for how it differs they are not, and the table in docs/guide/james_stein.md shows how far.
"""

from pathlib import Path

import numpy as np
import pytest

from hbsk import JamesSteinEstimator

pytestmark = pytest.mark.slow

GUIDE = Path(__file__).parents[2] / "docs" / "guide" / "james_stein.md"
METHODS = ("james-stein", "empirical-bayes", "sure")
N_FITS = 1500


def one_outlier(n_groups):
    """One mean four standard errors from all others: which groups are asked for, true means, standard errors."""
    asked = np.arange(n_groups) == 0
    return asked, 4.0 * asked, np.ones(n_groups)


def unequal_errors(n_groups):
    """Every third group is known five times better than the rest; means at normal quantiles, in no order."""
    asked = np.arange(n_groups) % 3 == 0
    quantiles = np.random.default_rng(5).permutation(np.linspace(-1.5, 1.5, n_groups))
    return asked, 0.6 * quantiles, np.where(asked, 0.3, 1.5)


SETTINGS = {
    "1 group 4 sds away from 9": one_outlier(10),
    "1 group 4 sds away from 29": one_outlier(30),
    "10 groups with errors of 0.3, 20 with 1.5": unequal_errors(30),
}


def coverage(method, asked, theta, error):
    """Shares of 90 % intervals that hold the true mean, of groups asked for and of all others, with their errors."""
    rng = np.random.default_rng(11)
    label = np.arange(len(theta))[:, None]
    estimator = JamesSteinEstimator(group_features=0, method=method)
    held = np.empty((N_FITS, len(theta)))
    for i in range(N_FITS):
        estimator.fit(label, theta + error * rng.normal(size=len(theta)), standard_error=error)
        low, high = estimator.predict_interval(label, kind="mean").T
        held[i] = (low <= theta) & (theta <= high)
    shares = np.column_stack([held[:, asked].mean(axis=1), held[:, ~asked].mean(axis=1)])
    return shares.mean(axis=0), shares.std(axis=0, ddof=1) / np.sqrt(N_FITS)


def shown(setting, method):
    """Read the two shares of a setting off the table in the guide."""
    rows = [line.split("|")[1:-1] for line in GUIDE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    (row,) = [row for row in rows if row[0].strip() == setting]
    return [float(share) for share in row[1 + METHODS.index(method)].split("/")]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_guide_shows_how_single_groups_are_covered(setting, method):
    shares, errors = coverage(method, *SETTINGS[setting])
    # Both are simulated; the guide has two digits.
    np.testing.assert_allclose(shown(setting, method), shares, rtol=0, atol=0.005 + 3 * np.sqrt(2) * errors.max())
