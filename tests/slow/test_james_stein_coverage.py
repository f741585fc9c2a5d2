"""Coverage of JamesSteinEstimator's intervals over its own model: theta_j ~ N(x_j' beta, tau^2), y ~ N(theta, sigma^2).

Intervals average over tau^2: where groups differ they are right, and near tau = 0 they are wide, since no tau^2 can be
told from 0 there.
"""

import numpy as np
import pytest

from hbsk import JamesSteinEstimator

pytestmark = pytest.mark.slow

N_FITS = 250
COVERAGES = np.array([0.5, 0.8, 0.9, 0.95])


def coverage(n_groups, tau, *, known=False, regression=False, equal=False, **params):
    """Shares of intervals that hold the truth: dict from (kind, known or new group) to shape (len(COVERAGES), 2).

    The second column is the standard error, fits being the independent units.
    """
    rng = np.random.default_rng([n_groups, int(100 * tau), known, regression, equal])
    sizes = np.full(n_groups, 4) if equal else rng.integers(2, 8, n_groups)
    group = np.append(np.repeat(np.arange(n_groups), 1 if known else sizes), n_groups)
    slope_column = rng.normal(size=n_groups + 1)
    X = np.column_stack([slope_column[group], group]) if regression else group[:, None]
    # One row for each group at the end, the last of a group that fit does not see.
    ask = np.append(np.unique(group[:-1], return_index=True)[1], len(group) - 1)
    error = (np.full(len(group), 1.0) if equal else rng.uniform(0.5, 2.0, len(group))) if known else 2.0
    estimator = JamesSteinEstimator(group_features=-1, target="regression" if regression else "mean", **params)
    hits = {
        (kind, who): np.empty((N_FITS, len(COVERAGES))) for kind in ("mean", "prediction") for who in ("known", "new")
    }
    for i in range(N_FITS):
        theta = 3.0 + 1.5 * slope_column * regression + tau * rng.normal(size=n_groups + 1)
        y = theta[group] + error * rng.normal(size=len(group))
        estimator.fit(X[:-1], y[:-1], standard_error=error[:-1] if known else None)
        truth = {"mean": theta, "prediction": theta + (error[ask] if known else error) * rng.normal(size=n_groups + 1)}
        for (kind, who), held in hits.items():
            errors = error[ask] if known and kind == "prediction" else None
            which = slice(None, -1) if who == "known" else slice(-1, None)
            for k, wanted in enumerate(COVERAGES):
                low, high = estimator.predict_interval(X[ask], coverage=wanted, kind=kind, standard_error=errors).T
                held[i, k] = np.mean(((low <= truth[kind]) & (truth[kind] <= high))[which])
    return {
        key: np.array([held.mean(axis=0), held.std(axis=0, ddof=1) / np.sqrt(N_FITS)]).T for key, held in hits.items()
    }


SETTINGS = {
    "James-Stein, equal sizes": {"method": "james-stein", "equal": True},
    "James-Stein, known errors": {"method": "james-stein", "equal": True, "known": True},
    "empirical Bayes": {"method": "empirical-bayes"},
    "empirical Bayes, known errors": {"method": "empirical-bayes", "known": True},
    "empirical Bayes, regression": {"method": "empirical-bayes", "regression": True},
    "SURE": {"method": "sure"},
}
# Numbers of groups, and tau in units of the sd of an average group mean.
SIZES = ((8, 0.0), (8, 1.0), (30, 1.0), (30, 3.0), (80, 1.0))
# How far below nominal a coverage may be, and above where groups differ, of new groups where there are some tens.
TOO_LOW, TOO_HIGH = 0.005, 0.06


@pytest.mark.parametrize(("n_groups", "tau"), SIZES)
@pytest.mark.parametrize("name", SETTINGS)
def test_intervals_cover_over_their_own_model(name, n_groups, tau):
    for (kind, who), shares in coverage(n_groups, tau, **SETTINGS[name]).items():
        share, error = shares.T
        # Three standard errors of 250 fits; none of them where all intervals cover.
        error = np.maximum(error, 0.5 * np.sqrt(COVERAGES * (1 - COVERAGES) / N_FITS) / 4)
        assert np.all(share > COVERAGES - TOO_LOW - 3 * error), (kind, who, share)
        if tau > 0 and (who == "known" or n_groups >= 30):
            assert np.all(share < COVERAGES + TOO_HIGH + 3 * error), (kind, who, share)
