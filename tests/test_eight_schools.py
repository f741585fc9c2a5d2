"""Eight schools, mu ~ N(0, 5), tau ~ HalfCauchy(5), against quadrature over tau: all else is normal given tau."""

import numpy as np
import pytest
from scipy import stats

from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_eight_schools

PRIORS = {
    "Intercept": ("Normal", {"mu": 0.0, "sigma": 5.0}),
    "1|school": ("Normal", {"mu": 0.0, "sigma": ("HalfCauchy", {"beta": 5.0})}),
}


@pytest.fixture(scope="module")
def schools():
    return load_eight_schools(as_frame=True)


@pytest.fixture(scope="module")
def fitted(schools):
    model = PartialPoolingRegressor(group_features="school", priors=PRIORS)
    return model.fit(schools.data, schools.target, standard_error=schools.standard_error)


@pytest.fixture(scope="module")
def exact(schools):
    """Posterior weights of a fine grid of tau, and means and sds of mu and theta given each."""
    y, se = schools.target.to_numpy(), schools.standard_error.to_numpy()
    # tau = 5 tan(pi v / 2) is Cauchy for uniform v: the prior needs no cut
    v = (np.arange(200_000) + 0.5) / 200_000
    tau = 5.0 * np.tan(np.pi * v / 2)
    variance = se**2 + tau[:, None] ** 2
    precision = 1 / 25 + np.sum(1 / variance, axis=1)
    mu = np.sum(y / variance, axis=1) / precision
    # p(y | tau) = p(y | mu, tau) p(mu) / p(mu | y, tau) at any mu
    log_weight = stats.norm.logpdf(y, mu[:, None], np.sqrt(variance)).sum(axis=1)
    log_weight += stats.norm.logpdf(mu, 0.0, 5.0) - stats.norm.logpdf(0.0, 0.0, precision**-0.5)
    weight = np.exp(log_weight - log_weight.max())
    weight /= weight.sum()
    own = tau[:, None] ** 2 / variance
    theta = own * y + (1 - own) * mu[:, None]
    spread = own * se**2 + (1 - own) ** 2 / precision[:, None]
    return tau, weight, mu, 1 / precision, theta, spread


def mixed(weight, mean, variance):
    total = weight @ mean
    return total, np.sqrt(weight @ (variance + (mean - total) ** 2))


def test_mean_and_sd_of_mu(fitted, exact):
    _, weight, mu, variance, *_ = exact
    mean, sd = mixed(weight, mu, variance)
    assert fitted.intercept_ == pytest.approx(mean, abs=0.01 * sd)
    found = fitted.summary().loc["Intercept"]
    assert found["mean"] == pytest.approx(mean, abs=0.01 * sd)
    assert found["sd"] == pytest.approx(sd, abs=0.01 * sd)


def test_mean_and_sd_of_every_school(fitted, exact):
    *_, theta, spread = exact
    weight = exact[1]
    table = fitted.group_effects_.set_index("group")
    for j, label in enumerate("ABCDEFGH"):
        mean, sd = mixed(weight, theta[:, j], spread[:, j])
        assert table.loc[label, "mean"] == pytest.approx(mean, abs=0.01 * sd)
        assert table.loc[label, "sd"] == pytest.approx(sd, abs=0.01 * sd)


def test_mean_sd_and_tails_of_tau(fitted, exact):
    tau, weight, *_ = exact
    mean, sd = mixed(weight, tau, 0.0)
    posterior = fitted._learnt.fitted.posterior
    found = posterior.variance_nodes().group_sd[0][:, 0]
    found_mean, found_sd = mixed(posterior.weight, found, 0.0)
    assert fitted.group_sd_["school"].iloc[0] == pytest.approx(mean, abs=0.01 * sd)
    assert found_mean == pytest.approx(mean, abs=0.01 * sd)
    assert found_sd == pytest.approx(sd, abs=0.01 * sd)
    order = np.argsort(found)
    cumulative = np.cumsum(posterior.weight[order]) - 0.5 * posterior.weight[order]
    for level in (0.05, 0.95):
        wanted = tau[np.searchsorted(np.cumsum(weight), level)]
        assert np.interp(level, cumulative, found[order]) == pytest.approx(wanted, abs=0.01 * sd)


def test_interval_of_a_school_and_of_a_new_one(fitted, exact, schools):
    tau, weight, mu, variance, theta, spread = exact
    rows = schools.data.iloc[[0, 0]].copy()
    rows["school"] = ["A", "elsewhere"]
    interval = fitted.predict_interval(rows, coverage=0.8, kind="mean")
    for r, (mean, square) in enumerate([(theta[:, 0], spread[:, 0]), (mu, variance + tau**2)]):
        below = [weight @ stats.norm.cdf(end, mean, np.sqrt(square)) for end in interval[r]]
        np.testing.assert_allclose(below, [0.1, 0.9], atol=2e-3)


def test_shrinkage_of_a_school(fitted, exact, schools):
    tau, weight, *_ = exact
    wanted = weight @ (tau[:, None] ** 2 / (tau[:, None] ** 2 + schools.standard_error.to_numpy() ** 2))
    np.testing.assert_allclose(fitted.shrinkage_["school"].to_numpy()[:, 0], wanted, atol=2e-3)


def test_residual_sd_is_no_parameter(fitted):
    assert np.isnan(fitted.sigma_)
    assert "sigma" not in fitted.priors_
    assert "sigma" not in fitted.diagnostics_.index
