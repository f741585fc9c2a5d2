"""One unknown sd: exact to 1e-6, against densities on fine grids that know nothing of the engine."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, interpolate, optimize, special, stats

from hbsk import PartialPoolingRegressor
from hbsk._engine.quadrature import WEIGHTS, score_nodes, score_quantiles
from hbsk.datasets import load_eight_schools

LEVELS = np.array([0.0005, 0.055, 0.5, 0.945, 0.9995])


@pytest.mark.parametrize(
    "law",
    [stats.gamma(3.0), stats.gamma(0.3), stats.gamma(1e6), stats.halfnorm(), stats.lomax(2.5), stats.invgamma(4.0)],
    ids=["gamma", "steep at zero", "narrow", "thin tail", "tail of 2.5 degrees", "inverse gamma"],
)
def test_nodes_have_the_moments_and_quantiles_of_the_law(law):
    values = np.exp(score_nodes(lambda x: law.logpdf(np.exp(x)) + x, -120.0, 230.0))
    assert WEIGHTS @ values == pytest.approx(law.mean(), rel=1e-10)
    assert WEIGHTS @ values**2 == pytest.approx(law.var() + law.mean() ** 2, rel=1e-10)
    np.testing.assert_allclose(score_quantiles(values, LEVELS), law.ppf(LEVELS), rtol=1e-8)


@pytest.mark.parametrize("height", [1e25, 1e40])
@pytest.mark.parametrize("shape", [lambda x: 1.0 + (x - 0.3) ** 2, lambda x: 1.0 + np.exp(x)])
def test_a_log_density_that_is_rounding_is_an_error_and_no_endless_search(height, shape):
    with pytest.raises(FloatingPointError, match="lost in rounding"):
        score_nodes(lambda x: -height * shape(x), -60.0, 170.0)


def test_two_modes_far_apart_are_both_found():
    law = stats.norm(0.0, 1e-3), stats.norm(40.0, 0.5)
    x = score_nodes(lambda x: np.logaddexp(law[0].logpdf(x), law[1].logpdf(x)), -60.0, 230.0)
    # half of the law lies at each, to half of the weight of the node where the quantile jumps
    assert WEIGHTS[x < 20.0].sum() == pytest.approx(0.5, abs=0.5 * WEIGHTS.max())
    np.testing.assert_allclose(x[[0, -1]], [-8.3e-3, 40.0 + 18.0], rtol=0.1)


class Sigma:
    """The posterior of sigma on a grid of its logarithm, for rows y ~ N(mu, sigma^2), mu Normal(m, s) or flat."""

    def __init__(self, y, prior, *, mean=0.0, sd=np.inf):
        n, centre = len(y), np.mean(y)
        middle = np.log(np.std(y))
        x = np.linspace(middle - 12.0, min(middle + 40.0, np.log(prior.ppf(1.0))), 8001)
        self.sigma = np.minimum(np.exp(x), prior.ppf(1.0))
        squares = np.sum((y - centre) ** 2)
        of_mean = self.sigma**2 / n
        log_density = -(n - 1) * np.log(self.sigma) - 0.5 * squares / self.sigma**2
        if np.isfinite(sd):
            log_density += stats.norm.logpdf(centre, mean, np.sqrt(sd**2 + of_mean))
            self.variance = 1 / (1 / sd**2 + 1 / of_mean)
            self.mean = self.variance * (mean / sd**2 + centre / of_mean)
        else:
            self.mean, self.variance = np.full(len(self.sigma), centre), of_mean
        log_density += prior.logpdf(self.sigma) + np.log(self.sigma)
        density = np.exp(log_density - log_density.max())
        self.below = integrate.cumulative_simpson(density, initial=0.0)
        self.below /= self.below[-1]
        # Simpson's rule
        self.weight = density * np.append(1.0, np.tile([4.0, 2.0], 4000))
        self.weight[-1] /= 2.0
        self.weight /= self.weight.sum()

    def moments(self):
        mean = self.weight @ self.sigma
        return mean, np.sqrt(self.weight @ (self.sigma - mean) ** 2)

    def quantile_of_sigma(self, level):
        inner = (self.below > 1e-9) & (self.below < 1 - 1e-9)
        score = special.ndtri(self.below[inner])
        return np.exp(interpolate.CubicSpline(score, np.log(self.sigma[inner]))(special.ndtri(level)))

    def predictive_quantile(self, level):
        sd = np.sqrt(self.variance + self.sigma**2)

        def excess(q):
            return self.weight @ special.ndtr((q - self.mean) / sd) - level

        reach = 1e4 * np.max(np.abs(self.mean)) + 1e4
        return optimize.brentq(excess, -reach, reach, xtol=1e-12, rtol=1e-14)


def half_cauchy(scale):
    return ("HalfCauchy", {"beta": scale}), stats.halfcauchy(scale=scale)


CASES = {
    "HalfNormal(2), 10 rows": (10, ("HalfNormal", {"sigma": 2.0}), stats.halfnorm(scale=2.0), 3.0),
    "HalfStudentT, 2 rows": (2, ("HalfStudentT", {"nu": 4.0, "sigma": 0.8}), None, 2.5),
    "HalfCauchy, 3 rows, flat mean": (3, *half_cauchy(1.0), np.inf),
    "Uniform, 5 rows": (5, ("Uniform", {"lower": 0.0, "upper": 3.0}), stats.uniform(0, 3.0), 3.0),
    "Exponential, 40 rows": (40, ("Exponential", {"lam": 0.7}), stats.expon(scale=1 / 0.7), np.inf),
    "Gamma, 4 rows": (4, ("Gamma", {"alpha": 0.5, "beta": 0.5}), stats.gamma(0.5, scale=2.0), np.inf),
    "InverseGamma, 2 rows": (2, ("InverseGamma", {"alpha": 3.0, "beta": 2.0}), stats.invgamma(3.0, scale=2.0), 5.0),
}


@pytest.mark.parametrize("grouped", [False, True], ids=["no groups", "pooling complete"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_sigma_is_integrated_to_six_digits(case, grouped):
    n, plain, law, sd = case
    rng = np.random.default_rng(n)
    y = 1.3 + rng.normal(size=n)
    if law is None:
        # density of the folded t: twice that of the t
        law = SimpleNamespace(
            logpdf=lambda x: stats.t.logpdf(x, 4.0, scale=0.8) + np.log(2),
            ppf=lambda level: np.inf,
        )
    intercept = ("Flat", {}) if np.isinf(sd) else ("Normal", {"mu": 0.4, "sigma": sd})
    exact = Sigma(y, law, mean=0.4, sd=sd)
    X = pd.DataFrame({"g": np.arange(n) % 2})
    model = PartialPoolingRegressor(
        "y ~ 1 + (1 | g)" if grouped else "y ~ 1", pooling="complete", priors={"sigma": plain, "Intercept": intercept}
    ).fit(X, y)
    table = model.summary(coverage=0.89)
    mean, spread = exact.moments()
    assert model.sigma_ == pytest.approx(mean, rel=1e-6)
    if "HalfCauchy" not in plain:
        assert table.loc["sigma", "sd"] == pytest.approx(spread, rel=1e-6)
    for column, level in (("eti89_lb", 0.055), ("eti89_ub", 0.945)):
        assert table.loc["sigma", column] == pytest.approx(exact.quantile_of_sigma(level), rel=1e-6)
    for coverage in (0.5, 0.9, 0.999):
        found = model.predict_interval(X[:1], coverage=coverage)[0]
        wanted = [exact.predictive_quantile((1 + side * coverage) / 2) for side in (-1, 1)]
        np.testing.assert_allclose(found, wanted, atol=1e-6 * np.ptp(wanted))
    assert model.diagnostics_.loc["sigma", "mcse_mean"] == 0.0


def test_without_pooling_sigma_is_integrated_as_well():
    # rows of three groups less their means: sigma with its prior and n - 3 degrees of freedom
    rng = np.random.default_rng(5)
    codes = np.repeat([0, 1, 2], 2)
    y = rng.normal(size=6) + 3.0 * codes
    model = PartialPoolingRegressor(
        "y ~ 1 + (1 | g)", pooling="none", priors={"sigma": ("HalfNormal", {"sigma": 2.0})}
    ).fit(pd.DataFrame({"g": codes}), y)
    within = y - np.bincount(codes, y)[codes] / 2
    sigma = np.exp(np.linspace(-14.0, 8.0, 20_001))
    log_density = -3 * np.log(sigma) - 0.5 * within @ within / sigma**2 - sigma**2 / 8 + np.log(sigma)
    weight = np.exp(log_density - log_density.max())
    assert model.sigma_ == pytest.approx(weight @ sigma / weight.sum(), rel=1e-6)
    new = pd.DataFrame({"g": [0, 9]})
    complete = PartialPoolingRegressor(
        "y ~ 1 + (1 | g)", pooling="complete", priors={"sigma": ("HalfNormal", {"sigma": 2.0})}
    ).fit(pd.DataFrame({"g": codes}), y)
    np.testing.assert_allclose(
        model.predict_interval(new, coverage=0.999)[1], complete.predict_interval(new[1:], coverage=0.999)[0], rtol=1e-9
    )


def test_one_group_sd_is_integrated_to_six_digits():
    """Eight schools: known standard errors leave tau alone."""
    data = load_eight_schools(as_frame=True)
    y, error = data.target.to_numpy(), data.standard_error.to_numpy()
    X = pd.DataFrame({"school": list("abcdefgh")})
    priors = {
        "Intercept": ("Flat", {}),
        "1|school": ("Normal", {"mu": 0, "sigma": ("HalfCauchy", {"beta": 5.0})}),
    }
    model = PartialPoolingRegressor("y ~ 1 + (1 | school)", priors=priors).fit(X, y, standard_error=error)
    tau = np.exp(np.linspace(-30.0, 25.0, 40_001))
    precision = 1 / (error**2 + tau[:, None] ** 2)
    variance = 1 / precision.sum(axis=1)
    mean = variance * (precision @ y)
    squares = np.sum(precision * (y - mean[:, None]) ** 2, axis=1)
    log_density = 0.5 * (np.log(precision).sum(axis=1) + np.log(variance) - squares)
    log_density += stats.halfcauchy.logpdf(tau, scale=5.0) + np.log(tau)
    weight = np.exp(log_density - log_density.max())
    weight /= weight.sum()
    average = weight @ tau
    table = model.summary(coverage=0.89).loc["1|school_sigma"]
    assert table["mean"] == pytest.approx(average, rel=1e-6)
    assert table["sd"] == pytest.approx(np.sqrt(weight @ (tau - average) ** 2), rel=1e-6)
    below = integrate.cumulative_simpson(weight, initial=0.0)
    assert table["eti89_ub"] == pytest.approx(np.interp(0.945, below, tau), rel=1e-6)
    assert model.intercept_ == pytest.approx(weight @ mean, rel=1e-6)
    spread = np.sqrt(weight @ (variance + (mean - weight @ mean) ** 2))
    assert model.summary().loc["Intercept", "sd"] == pytest.approx(spread, rel=1e-6)
