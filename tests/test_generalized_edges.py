"""Binary and count data at the edges: separated, alone, extreme, wide; right, or an error that says why not."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from hbsk import PartialPoolingClassifier, PartialPoolingCountRegressor
from hbsk._engine.generalized.data import Responses
from hbsk._engine.generalized.fit import generalized_model, integrate_generalized
from hbsk._engine.integrate import monte_carlo_error
from hbsk._engine.pareto import smoothed_weights
from hbsk._engine.priors import EnginePriors
from hbsk._engine.propriety import ImproperPosteriorError
from hbsk._engine.sd_prior import SdPrior
from hbsk._posterior.generalized import fit_generalized
from hbsk._posterior.response import response_interval, response_log_means, response_mean
from tests.slow.test_generalized_calibration import ranks_of_fit

CODES = np.repeat(np.arange(10), 4)
FLAG = np.tile([0.0, 0.0, 1.0, 1.0], 10)
COLUMNS = np.column_stack([np.ones(40), FLAG])


def of_rows(y, x=COLUMNS, z=None, family="binomial", size=None, codes=CODES):
    y = np.asarray(y, dtype=float)
    size = np.ones(len(y)) if size is None else size
    z = np.ones((len(y), 1)) if z is None else z
    return Responses(family, y, size, x, z, codes, int(codes.max()) + 1, True, 0)


def priors_of(p=2, q=1, sd_of_intercept=1.5, sd=1.0, group_sd=None):
    group_sd = [group_sd or SdPrior("HalfNormal", {"sigma": 2.5})] * q
    blocks, etas = (((0, 1),), (1.0,)) if q == 2 else ((), ())
    return EnginePriors(np.zeros(p), np.append(sd_of_intercept, np.full(p - 1, sd)), None, group_sd, blocks, etas)


def some(seed=0, n=40, p=0.5):
    return np.random.default_rng(seed).random(n) < p


def extreme_exposure():
    rng = np.random.default_rng(2)
    size, codes = 10.0 ** rng.uniform(-6, 6, 200), rng.integers(0, 20, 200)
    x = np.column_stack([np.ones(200), rng.normal(size=200)])
    y = rng.poisson(size * np.exp(-1 + 0.5 * x[:, 1] + rng.normal(size=20)[codes]))
    return of_rows(y, x, None, "poisson", size, codes), priors_of(sd_of_intercept=5.0)


def one_large_group():
    rng = np.random.default_rng(3)
    y, codes = np.append(3e5, some(1, 39, 0.4)), np.append(0, rng.integers(1, 20, 39))
    return of_rows(y, size=np.append(1e6, np.ones(39)), codes=codes), priors_of()


def outlier():
    y = np.append(1e6, np.zeros(39))
    return of_rows(y, family="poisson"), priors_of(sd_of_intercept=25.0)


CASES = {
    "complete separation": (of_rows(FLAG), priors_of()),
    "separation under wide priors": (of_rows(FLAG), priors_of(sd=100.0)),
    "quasi-complete separation": (of_rows(np.where(CODES == 0, 1, FLAG)), priors_of()),
    "all ones": (of_rows(np.ones(40)), priors_of()),
    "all zeros": (of_rows(np.zeros(40)), priors_of()),
    "every row alone": (of_rows(some(1, p=0.7), codes=np.arange(40)), priors_of()),
    "no counts": (of_rows(np.zeros(40), family="poisson"), priors_of(sd_of_intercept=2.5)),
    "one large group": one_large_group(),
    "exposure from 1e-6 to 1e6": extreme_exposure(),
    "one count of a million": outlier(),
    "one group": (of_rows(FLAG, codes=np.zeros(40, int)), priors_of()),
    "one row": (of_rows([1.0], np.ones((1, 1)), codes=np.zeros(1, int)), priors_of(1)),
    "groups without rows": (replace(of_rows(some()), n_groups=25), priors_of()),
    "a constant column": (of_rows(some(), np.column_stack([np.ones(40), np.full(40, 3.0)])), priors_of()),
    "columns of 1e8": (of_rows(some(), COLUMNS + np.array([0, 1e8])), priors_of()),
    "no common column": (
        replace(of_rows(some()), x=np.zeros((40, 0)), has_intercept=False),
        EnginePriors(np.zeros(0), np.zeros(0), None, [SdPrior("HalfNormal", {"sigma": 2.5})], (), ()),
    ),
    "complete pooling": (replace(of_rows(FLAG), z=np.zeros((40, 0)), n_groups=0), priors_of(q=0)),
    "no pooling": (of_rows(np.ones(40)), priors_of(group_sd=2.5)),
    "bounded sds": (of_rows(some()), priors_of(group_sd=SdPrior("Uniform", {"lower": 0.1, "upper": 3.0}))),
    "flat coefficients": (of_rows(some(4)), priors_of(sd_of_intercept=np.inf, sd=np.inf)),
    "flat sds": (of_rows(some(4)), priors_of(group_sd=SdPrior("HalfFlat", {}))),
}


@pytest.mark.parametrize("name", CASES)
def test_edges_have_finite_answers(name):
    responses, priors = CASES[name]
    fit = fit_generalized(responses, priors)
    posterior = fit.posterior
    assert fit.reliable
    rows = (responses.x, [responses.z], [responses.codes]) if posterior.n_groups else (responses.x, [], [])
    answers = [response_mean(posterior, *rows), response_interval(posterior, *rows, np.array([0.05, 0.95]))]
    answers += [*posterior.common_moments(), *posterior.row_moments(*rows), posterior.group_log_likelihood]
    if posterior.family == "binomial":
        logs = response_log_means(posterior, *rows)
        np.testing.assert_allclose(np.exp(logs[0]) + np.exp(logs[1]), 1.0, rtol=1e-12)
        np.testing.assert_allclose(np.exp(logs[0]), answers[0], rtol=1e-10)
        answers += logs
    if posterior.n_groups:
        moments = posterior.group_moments()
        answers += [moments.mean, moments.covariance, posterior.shrinkage()]
        assert len(moments.mean) == responses.n_groups
    assert all(np.isfinite(answer).all() for answer in answers)
    draws, _ = posterior.row_draws(*rows, 20, np.random.default_rng(0))
    assert np.isfinite(draws).all()


def test_a_group_without_rows_is_a_new_group():
    responses, priors = CASES["groups without rows"]
    posterior = fit_generalized(responses, priors).posterior
    one = (np.array([[1.0, 0.0]]), [np.ones((1, 1))])
    known, new = (posterior.row_moments(*one, [np.array([code])]) for code in (24, 25))
    np.testing.assert_allclose(known, new, rtol=1e-9)


@pytest.mark.parametrize(
    ("responses", "priors", "says"),
    [
        (of_rows(FLAG), priors_of(sd=np.inf), "separate successes from failures"),
        (of_rows(np.ones(40)), priors_of(sd_of_intercept=np.inf), "separate successes from failures"),
        (of_rows(np.zeros(40), family="poisson"), priors_of(sd_of_intercept=np.inf), "counts of zero"),
        (of_rows(2 * FLAG, family="poisson"), priors_of(sd_of_intercept=np.inf, sd=np.inf), "counts of zero"),
        (of_rows(some(), np.column_stack([COLUMNS, 2 * FLAG])), priors_of(3, sd=np.inf), "have rank 1"),
        (of_rows(np.ones(40)), priors_of(group_sd=SdPrior("HalfFlat", {})), "more groups that have both"),
    ],
)
def test_posteriors_that_do_not_exist_are_refused(responses, priors, says):
    with pytest.raises(ImproperPosteriorError, match=says):
        fit_generalized(responses, priors)


def test_many_columns_are_found_by_some_thousand_nodes():
    rng = np.random.default_rng(5)
    x, codes = np.column_stack([np.ones(400), rng.normal(size=(400, 24))]), rng.integers(0, 30, 400)
    truth = 0.3 * rng.normal(size=25)
    y = rng.random(400) < expit(x @ truth + rng.normal(size=30)[codes])
    fit = fit_generalized(of_rows(y, x, codes=codes), priors_of(25))
    mean, covariance = fit.posterior.common_moments()
    assert fit.reliable
    distance = (mean - truth)[1:] / np.sqrt(np.diag(covariance))[1:]
    assert np.sqrt(np.mean(distance**2)) < 1.3


def test_binary_groups_of_five_need_quadrature():
    # 2,000 groups: a bias of the group integrals does not shrink with their number (GLM of glmer with nAGQ = 1)
    rng = np.random.default_rng(8)
    codes = np.repeat(np.arange(2000), 5)
    y = rng.random(10_000) < expit(1.0 + rng.normal(size=2000)[codes])
    model, scaling = generalized_model(of_rows(y, np.ones((10_000, 1)), codes=codes), priors_of(1))
    found = integrate_generalized(model, scaling)
    log_proposal = found.proposal.log_density(found.nodes.theta)

    def law_of_tau(per_axis):
        points = replace(found.model, points_per_axis=per_axis).evaluate(found.nodes.theta, found.mode.start)
        weight, _ = smoothed_weights(points.log_density - log_proposal)
        mean, sd, _ = monte_carlo_error(points.variance.relative_sd, weight, found.nodes.replicate)
        return mean[0], sd[0]

    mean, sd = law_of_tau(31)
    assert abs(law_of_tau(found.model.points_per_axis)[0] - mean) < 0.05 * sd
    assert abs(law_of_tau(1)[0] - mean) > 0.5 * sd


def test_nodes_far_out_are_no_error():
    """Data under their own priors, of which a node has sds of e^20: the identity beside its squares is rounded away."""
    ranks, _ = ranks_of_fit("poisson", 2, 3, 31)
    assert all(0 <= rank <= 1 for rank in ranks.values())


def test_rates_that_no_count_holds_have_a_summary():
    # nodes of several rounds, whose number is no power of two
    estimator = PartialPoolingCountRegressor(group_features=0)
    estimator.fit(np.repeat(np.arange(8), 3)[:, None], np.zeros(24), exposure=np.full(24, 1e-6))
    n_nodes = estimator._learnt.fitted.posterior.n_nodes
    assert n_nodes & (n_nodes - 1)
    assert np.isfinite(estimator.summary()).all(axis=None)


@pytest.mark.parametrize("family", ["poisson", "binomial"])
def test_counts_of_any_size_leave_digits_for_the_rest(family):
    """Curvatures are differences of sums of squared scores as large as the counts, 1e-16 of which is not little."""
    rng = np.random.default_rng(0)
    X = pd.DataFrame({"x": rng.normal(size=60), "g": np.arange(60) % 8})
    rate = expit(0.5 * X["x"] + rng.normal(size=8)[X["g"]] + (family == "poisson") * rng.normal(size=60))
    found = {}
    for size in (1e4, 1e7, 1e9):
        options = {"trials": size} if family == "binomial" else {}
        model = PartialPoolingCountRegressor(group_features="g", family=family, inference="marginal")
        found[size] = model.fit(X, np.round(size * rate), **options).summary()
    small = found.pop(1e4)
    for size, large in found.items():
        # the unit of counts moves the intercept, and with it its prior
        moved = np.log(size / 1e4) if family == "poisson" else 0.0
        assert large.loc["Intercept", "mean"] == pytest.approx(
            small.loc["Intercept", "mean"] + moved, abs=0.03 * small.loc["Intercept", "sd"]
        )
        assert large.loc["1|g_sigma", "mean"] == pytest.approx(
            small.loc["1|g_sigma", "mean"], abs=0.03 * small.loc["1|g_sigma", "sd"]
        )
        for name in ("Intercept", "1|g_sigma"):
            assert large.loc[name, "sd"] == pytest.approx(small.loc[name, "sd"], rel=0.04)
        assert large.loc["x", "sd"] == pytest.approx(small.loc["x", "sd"] * (1e4 / size) ** 0.5, rel=0.02)


def test_one_row_far_along_a_varying_column_leaves_a_posterior():
    """The row makes the likelihood nearly a step in the slope of its group: the density bends both ways at its mode."""
    rng = np.random.default_rng(0)
    codes, x, effects = rng.integers(0, 8, 120), rng.normal(size=120), rng.normal(size=8)
    y = rng.random(120) < expit(0.5 * x + effects[codes])
    tables = []
    for far in (1e4, 1e6):
        x[3] = far
        X = pd.DataFrame({"x": x, "g": codes})
        model = PartialPoolingClassifier(group_features="g", slope_features="x", inference="marginal").fit(X, y)
        assert model.diagnostics_["pareto_k"].max() < 0.7
        tables.append(model.summary())
    # beside that row the others have no slope to speak of, wherever it is
    near, farther = tables
    for name, unit in {"1|g_sigma": 1.0, "x|g_sigma": 100.0, "corr_g[1, x]": 1.0}.items():
        assert farther.loc[name, "mean"] * unit == pytest.approx(near.loc[name, "mean"], abs=0.1 * near.loc[name, "sd"])
        assert farther.loc[name, "sd"] * unit == pytest.approx(near.loc[name, "sd"], rel=0.1)


@pytest.mark.parametrize("family", ["binomial", "poisson"])
@pytest.mark.parametrize("seed", [0, 4])
def test_few_counts_in_many_groups_are_integrated(family, seed):
    """Their posteriors have a shoulder at an sd of zero, where coefficients have long stopped to move with its log."""
    rng, codes = np.random.default_rng(seed), np.repeat(np.arange(70), 3)
    rate = 0.2 * np.exp(rng.normal(0.0, 0.7, 70)[codes])
    y = rng.poisson(rate) if family == "poisson" else rng.random(len(codes)) < rate
    ones = np.ones((len(codes), 1))
    found = fit_generalized(of_rows(y, x=ones, family=family, codes=codes), priors_of(p=1, sd_of_intercept=2.5))
    assert found.reliable
    assert found.posterior.pareto_k < 0.5
    assert len(found.found.nodes.weight) <= 1024


@pytest.mark.parametrize("seed", [22, 32, 43])
def test_flat_priors_beside_sds_that_leave_them_nothing(seed):
    # three failures, beside a wide prior of the sd: where it is large the groups take all that data tell of the others
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"g": np.repeat(np.arange(13), 2), "x": rng.normal(size=26).round(1)})
    trials = 1 + rng.integers(3, size=26)
    failures = np.isin(np.arange(26), rng.choice(26, 3, replace=False))
    flat = ("Flat", {})
    wide = {"Intercept": flat, "x": flat, "1|g": ("Normal", {"sigma": ("HalfNormal", {"sigma": 10.0})})}
    model = PartialPoolingCountRegressor("x + (1 | g)", family="binomial", priors=wide, inference="marginal")
    model.fit(X, trials - failures, trials=trials)
    assert np.isfinite(model.coef_).all()
    assert np.isfinite(model.predict_interval(X)).all()
