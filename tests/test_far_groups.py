"""Groups that lie up to 1e13 scales of the prior apart: right, or said not to be.

With the groups so far apart nothing is left to pool, and the law of sigma is that of the rows within groups, its prior
times sigma^-(n - J) exp(-S / 2 sigma^2), integrated by SciPy; S is exact, from fractions.
"""

from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from hbsk import PartialPoolingRegressor
from hbsk.exceptions import ConvergenceWarning

N_GROUPS, N_ROWS = 6, 3
PRIORS = {
    "InverseGamma": ({"alpha": 0.1, "beta": 0.1}, stats.invgamma(0.1, scale=0.1)),
    "HalfCauchy": ({"beta": 0.1}, stats.halfcauchy(scale=0.1)),
}


def far_groups(size):
    rng = np.random.default_rng(5)
    y = 0.1 * size * rng.normal(size=N_GROUPS)[:, None] + 0.1 * rng.normal(size=(N_GROUPS, N_ROWS))
    exact = [[Fraction(value) for value in row] for row in y.tolist()]
    within = sum((value - sum(row) / N_ROWS) ** 2 for row in exact for value in row)
    return pd.DataFrame({"g": np.repeat(np.arange(N_GROUPS), N_ROWS)}), y.ravel(), float(within)


def model(family, size):
    sd = (family, PRIORS[family][0])
    priors = {"Intercept": ("Normal", {"mu": 0, "sigma": size}), "1|g": ("Normal", {"mu": 0, "sigma": sd})}
    return PartialPoolingRegressor("y ~ 1 + (1 | g)", priors=priors | {"sigma": sd})


@pytest.mark.parametrize("family", PRIORS)
@pytest.mark.parametrize("size", [1e3, 1e5])
def test_sigma_is_that_of_the_rows_within_groups(family, size):
    X, y, within = far_groups(size)
    found = model(family, size).fit(X, y).summary(coverage=0.89).loc["sigma"]

    def density(log_sigma):
        sigma = np.exp(log_sigma)
        return (
            PRIORS[family][1].pdf(sigma) * sigma ** (1 + N_GROUPS - N_GROUPS * N_ROWS) * np.exp(-within / sigma**2 / 2)
        )

    centre = 0.5 * np.log(within / N_GROUPS / (N_ROWS - 1))
    ends = (centre - 2, centre + 4)
    moments = [integrate.quad(lambda x, k=k: density(x) * np.exp(k * x), *ends, epsabs=0)[0] for k in range(3)]
    mean = moments[1] / moments[0]
    assert found["mean"] == pytest.approx(mean, rel=2e-3)
    assert found["sd"] == pytest.approx(np.sqrt(moments[2] / moments[0] - mean**2), rel=0.02)
    for end, level in (("eti89_lb", 0.055), ("eti89_ub", 0.945)):
        below = integrate.quad(density, ends[0], np.log(found[end]), epsabs=0)[0] / moments[0]
        assert below == pytest.approx(level, abs=0.005)


@pytest.mark.parametrize("family", PRIORS)
@pytest.mark.parametrize("size", [1e6, 1e7, 1e10, 1e13])
@pytest.mark.parametrize("pooling", ["partial", "none"])
def test_where_sigma_is_lost_beside_the_groups_it_is_said(family, size, pooling):
    X, y, _ = far_groups(size)
    with pytest.warns(ConvergenceWarning, match=r"sigma is held at.*far from all others"):
        model(family, size).set_params(pooling=pooling).fit(X, y)


@pytest.mark.parametrize("noise", ["sigma", "standard_error"])
def test_noise_that_is_known_and_lost_beside_the_groups_is_refused(noise):
    X, y, _ = far_groups(1e9)
    priors = {"sigma": 0.1} if noise == "sigma" else None
    error = np.full(len(y), 0.1) if noise == "standard_error" else None
    with pytest.raises(ValueError, match=f"{noise}.*less than 1e-07.*lost in rounding"):
        PartialPoolingRegressor("y ~ 1 + (1 | g)", priors=priors).fit(X, y, standard_error=error)


@pytest.mark.filterwarnings("ignore::hbsk.exceptions.SuspiciousWeightsWarning")
def test_known_errors_count_their_copies():
    X, y, _ = far_groups(1e5)
    error, model = np.full(len(y), 0.1), PartialPoolingRegressor("y ~ 1 + (1 | g)")
    model.fit(X, y, standard_error=error)
    with pytest.raises(ValueError, match=r"standard_error.*over the root of sample_weight, less than 1e-07"):
        model.fit(X, y, standard_error=error, sample_weight=np.full(len(y), 1e6))


@pytest.mark.filterwarnings("ignore::hbsk.exceptions.SuspiciousWeightsWarning")
@pytest.mark.parametrize("pooling", ["partial", "complete", "none"])
def test_more_copies_than_a_log_density_can_hold_are_refused(pooling):
    X, y, _ = far_groups(1.0)
    copies = np.full(len(y), 1e11)
    with pytest.raises(ValueError, match=r"sample_weight adds up to 1\.8e\+12 copies.*at most 1e\+12"):
        PartialPoolingRegressor("y ~ 1 + (1 | g)", pooling=pooling).fit(X, y, sample_weight=copies)


def test_a_constant_y_has_no_noise_to_be_lost():
    X, _, _ = far_groups(1.0)
    PartialPoolingRegressor("y ~ 1 + (1 | g)").fit(X, np.full(len(X), 3.0))  # warnings are errors here
