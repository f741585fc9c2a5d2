"""Default priors with known standard errors: honest for two studies, continuous in y. Against quadrature."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hbsk import PartialPoolingRegressor

STUDIES = pd.DataFrame({"study": ["a", "b"]})


def by_quadrature(y, error, scale):
    """Mean and sd of mu, mean of tau: mu ~ Normal(mean(y), scale), tau ~ HalfNormal(scale), tau on a fine grid."""
    tau = np.linspace(0.0, 9.0 * scale, 20_001)
    precision = 1 / (error**2 + tau[:, None] ** 2)
    total = 1 / scale**2 + precision.sum(axis=1)
    mean = (np.mean(y) / scale**2 + precision @ y) / total
    squares = precision @ y**2 + np.mean(y) ** 2 / scale**2 - mean**2 * total
    log_density = 0.5 * (np.log(precision).sum(axis=1) - np.log(total) - squares) + stats.halfnorm.logpdf(tau, 0, scale)
    weight = np.exp(log_density - log_density.max())
    weight[0] /= 2
    weight /= weight.sum()
    average = weight @ mean
    return average, np.sqrt(weight @ (1 / total + (mean - average) ** 2)), weight @ tau


@pytest.mark.parametrize("error", [[0.3, 0.3], [0.1, 0.9]], ids=["equal", "unequal"])
@pytest.mark.parametrize("apart", [0.02, 0.0, 2.0])
def test_two_studies(error, apart):
    y, error = np.array([0.5, 0.5 + apart]), np.array(error)
    model = PartialPoolingRegressor(group_features="study").fit(STUDIES, y, standard_error=error)
    scale = 2.5 * np.sqrt(np.var(y) + np.mean(error**2))
    mean, sd, tau = by_quadrature(y, error, scale)
    assert model.priors_["Intercept"][1]["sigma"] == pytest.approx(scale)
    table = model.summary()
    assert table.loc["Intercept", "mean"] == pytest.approx(mean, rel=1e-6)
    assert table.loc["Intercept", "sd"] == pytest.approx(sd, rel=1e-5)
    assert table.loc["1|study_sigma", "mean"] == pytest.approx(tau, rel=1e-5)
    # no wider prior of tau could make the mean more certain than one truth for both studies
    assert sd > 0.97 * np.sum(error**-2.0) ** -0.5


@pytest.mark.parametrize("pooling", ["partial", "complete"])
def test_studies_that_come_to_agree_make_no_jump(pooling):
    sds = []
    for apart in (0.0, 1e-14, 1e-9, 1e-5, 1e-3, 0.02):
        model = PartialPoolingRegressor("y ~ 1 + (1 | study)", pooling=pooling)
        model.fit(STUDIES, np.array([0.5, 0.5 + apart]), standard_error=0.3)
        sds.append(model.summary().loc["Intercept", "sd"])
    np.testing.assert_allclose(sds[:-1], sds[0], rtol=1e-3)
    np.testing.assert_allclose(sds[-1], sds[0], rtol=0.02)


@pytest.mark.parametrize("slopes", [None, ["x"]])
@pytest.mark.parametrize("weighted", [False, True])
def test_scales_of_slopes_hold_the_noise_too(slopes, weighted):
    rng = np.random.default_rng(3)
    X = pd.DataFrame({"study": np.arange(8) % 4, "x": rng.normal(size=8)})
    y, error = 0.01 * rng.normal(size=8), rng.uniform(0.5, 2.0, 8)
    copies = rng.integers(1, 4, 8) if weighted else np.ones(8)
    model = PartialPoolingRegressor(group_features="study", slope_features=slopes)
    model.fit(X, y, standard_error=error, sample_weight=copies if weighted else None)
    rows = np.repeat(np.arange(8), copies.astype(int))
    scale = 2.5 * np.sqrt(np.var(y[rows]) + np.mean(error[rows] ** 2)) / np.std(X["x"].to_numpy()[rows])
    assert model.priors_["x"][1]["sigma"] == pytest.approx(scale)
    if slopes:
        assert model.priors_["x|study"][1]["sigma"][1]["sigma"] == pytest.approx(scale)
