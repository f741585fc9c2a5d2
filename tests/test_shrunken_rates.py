"""JamesSteinEstimator(method="beta-binomial" | "gamma-poisson"): against scipy by brute force, edges, manners."""

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy import stats
from sklearn.model_selection import cross_val_score, cross_validate

from hbsk import JamesSteinEstimator, PartialPoolingCountRegressor, from_json, to_json
from hbsk._shrinkage import rates as room
from hbsk.datasets import load_baseball
from hbsk.exceptions import NoGroupsWarning, NonIntegerCountWarning, ShrinkageWarning
from hbsk.model_selection import make_group_scorer
from hbsk.plotting import ShrinkageDisplay

METHODS = {"beta-binomial": "trials", "gamma-poisson": "exposure"}
LABEL = np.arange(6)[:, None]
COUNT, SIZE = np.array([0.0, 3, 4, 9, 2, 7]), np.array([3.0, 8, 20, 11, 2, 40])


def fitted(method, count=COUNT, size=SIZE, **params):
    X = np.arange(len(count))[:, None]
    return JamesSteinEstimator(group_features=0, method=method, **params).fit(X, count, **{METHODS[method]: size})


def brute_force(method, count, size):
    """Weights on a fine grid of (log kappa, m) by scipy's own laws of counts, and kappa and m."""
    u = np.linspace(-14, 16, 61) + np.log(np.median(size))
    if method == "beta-binomial":
        m = stats.beta(0.5, 0.5).ppf((np.arange(120) + 0.5) / 120)
        log_prior = np.zeros(120)  # equal shares of the prior
    else:
        log_m = np.linspace(-9, 4, 131)
        m, log_prior = np.exp(log_m), 0.5 * log_m  # m^-1/2, by log m
    kappa, m = np.exp(u)[:, None], m[None]
    log_weight = stats.logistic(np.log(np.median(size))).logpdf(u)[:, None] + log_prior
    for a, n in zip(count, size, strict=True):
        if method == "beta-binomial":
            log_weight = log_weight + stats.betabinom.logpmf(a, int(n), kappa * m, kappa * (1 - m))
        else:
            log_weight = log_weight + stats.nbinom.logpmf(a, kappa * m, kappa / (n + kappa))
    weight = np.exp(log_weight - np.nanmax(log_weight))
    kept = weight > 1e-6
    kappa, m = np.broadcast_to(kappa, weight.shape)[kept], np.broadcast_to(m, weight.shape)[kept]
    return weight[kept] / weight[kept].sum(), kappa, m


def posterior(method, a, n, kappa, m):
    if method == "beta-binomial":
        return stats.beta(a + kappa * m, n - a + kappa * (1 - m))
    return stats.gamma(a + kappa * m, scale=1 / (n + kappa))


@pytest.mark.parametrize("method", METHODS)
def test_sds_and_intervals_by_brute_force(method):
    model = fitted(method)
    weight, kappa, m = brute_force(method, COUNT, SIZE)
    known = model.predict_interval(LABEL, kind="mean", coverage=0.9)
    new = model.predict_interval([[99]], kind="mean", coverage=0.9)[0]
    counts = model.predict_interval(LABEL, coverage=0.9, **{METHODS[method]: 30.0})
    for j, (a, n) in enumerate(zip(COUNT, SIZE, strict=True)):
        law = posterior(method, a, n, kappa, m)
        mean = weight @ law.mean()
        sd = np.sqrt(weight @ (law.var() + law.mean() ** 2) - mean**2)
        assert model.theta_sd_[j] == pytest.approx(sd, rel=0.01)
        np.testing.assert_allclose([weight @ law.cdf(end) for end in known[j]], [0.05, 0.95], atol=0.003)
        if method == "beta-binomial":
            of_count = stats.betabinom(30, a + kappa * m, n - a + kappa * (1 - m))
        else:
            of_count = stats.nbinom(a + kappa * m, (n + kappa) / (n + kappa + 30))
        for end, level in zip(counts[j], (0.05, 0.95), strict=True):
            assert weight @ of_count.cdf(end) >= level - 0.002
            assert weight @ of_count.cdf(end - 1) < level + 0.002
    law = posterior(method, 0.0, 0.0, kappa, m)
    np.testing.assert_allclose([weight @ law.cdf(end) for end in new], [0.05, 0.95], atol=0.003)


@pytest.mark.parametrize("method", METHODS)
def test_rates_move_by_the_law_of_the_greatest_likelihood(method):
    model = fitted(method)
    m, kappa = model.target_, model.kappa_
    weight = SIZE / (SIZE + kappa)
    np.testing.assert_allclose(model.shrinkage_["x0"]["1|x0"], weight, rtol=1e-12)
    np.testing.assert_allclose(model.theta_, m + weight * (COUNT / SIZE - m), rtol=1e-12)
    np.testing.assert_allclose(model.predict([[2], [77]]), [model.theta_[2], m])
    variance = m * (1 - m) / (kappa + 1) if method == "beta-binomial" else m / kappa
    assert model.between_group_variance_ == pytest.approx(variance)
    np.testing.assert_allclose(model.group_means_, COUNT / SIZE)
    np.testing.assert_array_equal(model.group_sizes_, SIZE)


def test_many_trials_are_told_by_some_of_their_counts(monkeypatch):
    model = fitted("beta-binomial", np.array([0.0, 300, 2, 5000]), np.array([900.0, 1000, 8, 9000]))
    rates, codes = model._learnt.means, np.arange(5)
    some = rates.count_interval(codes, np.full(5, 3000.0), 0.9)
    monkeypatch.setattr(room, "_FEW_COUNTS", 10_000)
    np.testing.assert_allclose(some, rates.count_interval(codes, np.full(5, 3000.0), 0.9), atol=2, rtol=2e-3)


@pytest.mark.parametrize("method", METHODS)
def test_draws_have_the_margins_of_intervals_and_new_labels_one_rate(method):
    model, size = fitted(method), {METHODS[method]: 1000.0}
    X = np.array([[1], [3], [50], [50], [51]])
    draws = model.sample_y(X, n_samples=4000, random_state=0, **size) / 1000
    low, high = model.predict_interval(X, coverage=0.8, **size).T / 1000
    held = np.mean((draws >= low[:, None]) & (draws <= high[:, None]), axis=1)
    np.testing.assert_allclose(held, 0.8, atol=0.03)
    logs = np.log(draws[2:] + 1e-3)
    assert np.corrcoef(logs)[0, 1] > 0.97
    assert np.corrcoef(logs)[0, 2] < 0.8


def test_players_against_the_hierarchical_logit():
    players = load_baseball(as_frame=True)
    hits, at_bats = np.round(45 * players.target), 45
    model = JamesSteinEstimator(group_features="player", method="beta-binomial")
    model.fit(players.data, hits, trials=at_bats)
    other = PartialPoolingCountRegressor(family="binomial", group_features="player")
    other.fit(players.data, hits, trials=at_bats)
    # two laws between groups, and two priors; theta_ has the likeliest law, the other averages: alike, not the same
    np.testing.assert_allclose(model.predict(players.data), other.predict(players.data), atol=0.025)
    ours = model.predict_interval(players.data, kind="mean")
    np.testing.assert_allclose(ours, other.predict_interval(players.data), atol=0.03)
    later = players.remaining_average
    assert np.sum((model.theta_ - later) ** 2) < np.sum((players.target - later) ** 2) / 2.5


EDGES = {
    "all zeros": ([0.0, 0, 0], [5.0, 9, 1]),
    "all ones": ([5.0, 9, 1], [5.0, 9, 1]),
    "one group": ([3.0], [9.0]),
    "1 trial beside 1e6": ([1.0, 0, 250_000, 1], [1.0, 1, 1e6, 1]),
    "alike": ([2.0, 2, 2, 2], [4.0, 4, 4, 4]),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("edge", EDGES)
def test_edges(method, edge):
    count, size = (np.array(part) for part in EDGES[edge])
    X = np.append(np.arange(len(count)), 99)[:, None]
    model = JamesSteinEstimator(group_features=0, method=method)
    twice = np.concatenate([np.zeros(1, dtype=int), np.arange(len(count))])  # two rows at least
    model.fit(X[twice], np.append(0.0 if edge != "all ones" else 1.0, count), **{METHODS[method]: np.append(1.0, size)})
    assert np.isfinite(model.predict(X)).all()
    for kind in ({"kind": "mean"}, {METHODS[method]: 7.0}, {METHODS[method]: 1e5}):
        low, high = model.predict_interval(X, **kind).T
        assert np.all((low >= 0) & (low <= high) & np.isfinite(high))
        if "kind" in kind:
            assert np.all(high > low)
        if method == "beta-binomial":
            assert np.all(high <= (1.0 if "kind" in kind else kind["trials"]))
    table = model.group_effects()
    assert np.isfinite(table.drop(columns=["factor", "group", "term"]).to_numpy(dtype=float)).all()
    assert np.isfinite(model.sample_y(X, random_state=0, **{METHODS[method]: 5})).all()


@pytest.mark.parametrize("exposure", [1e-6, 1e6])
def test_the_unit_of_exposure_does_not_matter(exposure):
    plain, other = fitted("gamma-poisson"), fitted("gamma-poisson", size=exposure * SIZE)
    np.testing.assert_allclose(other.theta_ * exposure, plain.theta_, rtol=1e-6)
    ends = [model.predict_interval(LABEL, kind="mean") for model in (plain, other)]
    np.testing.assert_allclose(ends[1] * exposure, ends[0], rtol=0.02)


@pytest.mark.parametrize("method", METHODS)
def test_weights_that_are_sizes_and_rows_of_their_own_are_the_same_likelihood(method):
    plain = fitted(method)
    by_weight = JamesSteinEstimator(group_features=0, method=method)
    by_weight.fit(LABEL, COUNT / SIZE, sample_weight=SIZE)
    np.testing.assert_allclose(by_weight.theta_, plain.theta_, rtol=1e-9)
    np.testing.assert_allclose(by_weight.theta_sd_, plain.theta_sd_, rtol=1e-9)
    assert by_weight.score(LABEL, COUNT / SIZE, SIZE) == pytest.approx(
        plain.score(LABEL, COUNT, **{METHODS[method]: SIZE})
    )
    if method == "beta-binomial":
        group = np.repeat(np.arange(6), SIZE.astype(int))
        single = np.concatenate([np.arange(n) < a for a, n in zip(COUNT, SIZE, strict=True)])
        by_row = JamesSteinEstimator(group_features=0, method=method).fit(group[:, None], single)
        np.testing.assert_allclose(by_row.theta_, plain.theta_, rtol=1e-9)


def test_score_is_the_share_of_the_deviance():
    model = fitted("gamma-poisson")
    expected = sklearn.metrics.d2_tweedie_score(COUNT / SIZE, model.predict(LABEL), sample_weight=SIZE, power=1)
    assert model.score(LABEL, COUNT, exposure=SIZE) == pytest.approx(expected)


@pytest.mark.parametrize("method", METHODS)
def test_what_was_fitted_with_sizes_asks_for_them(method):
    model, size = fitted(method), METHODS[method]
    for ask in (
        lambda: model.score(LABEL, COUNT),
        lambda: model.sample_y(LABEL),
        lambda: model.predict_interval(LABEL),
    ):
        with pytest.raises(ValueError, match=f"needs {size}= for these rows: this JamesSteinEstimator was fitted with"):
            ask()
    with pytest.raises(ValueError, match=f"{size}= was given with kind='mean'"):
        model.predict_interval(LABEL, kind="mean", **{size: 1})
    with pytest.raises(ValueError, match="return_std=True asks for the sd of a new observation"):
        model.predict(LABEL, return_std=True)
    with pytest.raises(ValueError, match="standard_error= was given, but the rates were fitted"):
        model.predict(LABEL, standard_error=1.0)
    with pytest.raises(ValueError, match="heterogeneity is about group means"):
        model.heterogeneity()


@pytest.mark.parametrize(
    ("params", "given", "match"),
    [
        ({"target": "zero"}, {}, "target='zero' cannot be combined with method='beta-binomial'"),
        ({"target": 0.3}, {}, "target=0.3 cannot be combined"),
        ({"positive_part": False}, {}, "positive_part=False cannot be combined"),
        ({"between_group_variance": 0.1}, {}, "between_group_variance=0.1 cannot be combined"),
        ({"between_group_variance": "ml"}, {}, "between_group_variance='ml' cannot be combined"),
        ({}, {"standard_error": 1.0}, "standard_error= was given with method='beta-binomial', where trials say"),
        ({}, {"exposure": 1.0}, "exposure= was given with method='beta-binomial', which has trials= instead.*poisson"),
        ({}, {"trials": 0.0}, "trials must be positive"),
        ({}, {"trials": 8.0}, r"y must not exceed trials=; row 3 has 9.0 successes in 8.0 trials"),
        ({}, {}, "y must lie between 0 and 1 where no trials= are passed"),
        ({"method": "gamma-poisson"}, {"trials": 9.0}, "trials= was given with method='gamma-poisson'"),
        (
            {"method": "james-stein"},
            {"trials": 9.0},
            "trials= was given with method='james-stein', which shrinks means",
        ),
        ({"method": "sure"}, {"exposure": 9.0}, "exposure= was given with method='sure'.*method='gamma-poisson'"),
    ],
)
def test_what_is_refused(params, given, match):
    model = JamesSteinEstimator(**{"group_features": 0, "method": "beta-binomial"} | params)
    with pytest.raises(ValueError, match=match):
        model.fit(LABEL, COUNT, **given)


def test_counts_that_are_none():
    for method in METHODS:
        with pytest.raises(ValueError, match="0 or more"):
            fitted(method, count=COUNT - 1)
    with pytest.warns(NonIntegerCountWarning):
        JamesSteinEstimator(group_features=0, method="gamma-poisson").fit(LABEL, COUNT + 0.5)
    with pytest.warns(ShrinkageWarning, match="Rates are returned as they are: no group has two trials"):
        JamesSteinEstimator(group_features=0, method="beta-binomial").fit(LABEL, [0, 1, 1, 0, 0, 1])


@pytest.mark.parametrize("method", METHODS)
def test_tables_documents_and_displays(method):
    frame = pd.DataFrame({"player": list("abcdef")})
    model = JamesSteinEstimator(group_features="player", method=method).fit(frame, COUNT, **{METHODS[method]: SIZE})
    table = model.group_effects(coverage=0.9)
    np.testing.assert_allclose(table[["eti90_lb", "eti90_ub"]], model.predict_interval(frame, kind="mean"), rtol=1e-12)
    np.testing.assert_allclose(table["mean"] - table["deviation"], model.target_)
    summary = model.summary()
    assert list(summary.index) == ["Intercept", "kappa", "between_group_variance", "1|player_sigma"]
    assert (summary["eti95_lb"] < summary["eti95_ub"]).all()
    exact = model.summary(diagnostics=True)
    pd.testing.assert_frame_equal(exact[summary.columns], summary)
    assert exact.columns[len(summary.columns) :].tolist() == ["equivalent_draws", "equivalent_draws_tail", "mcse_mean"]
    assert np.isinf(exact["equivalent_draws"]).all()
    assert (exact["mcse_mean"] == 0).all()
    ranks = model.rank_groups()
    assert ranks["expected_rank"].sum() == pytest.approx(21)
    assert ranks.index[0] == "d"
    difference = model.compare_groups("d", "a").iloc[0]
    assert difference["mean"] == pytest.approx(model.theta_[3] - model.theta_[0], abs=0.2)
    assert difference["p_greater"] > 0.8
    again = from_json(to_json(model))
    np.testing.assert_array_equal(again.predict(frame), model.predict(frame))
    np.testing.assert_array_equal(
        again.predict_interval(frame, kind="mean"), model.predict_interval(frame, kind="mean")
    )
    shown = ShrinkageDisplay.from_estimator(model)
    np.testing.assert_array_equal(shown.estimate, model.theta_)


def test_policies_for_new_groups():
    model = fitted("beta-binomial", unknown_groups="nan")
    assert np.isnan(model.predict([[0], [99]])).tolist() == [False, True]
    assert np.isnan(model.predict_interval([[99]], kind="mean")).all()
    with pytest.raises(ValueError, match="not seen in fit"):
        model.score([[0], [99]], [0, 1], trials=3)
    with pytest.raises(ValueError, match="not seen in fit"):
        fitted("beta-binomial", unknown_groups="error").predict([[99]])


def test_through_scikit_learn():
    rng = np.random.default_rng(0)
    group, size = rng.integers(0, 8, 60), rng.integers(1, 9, 60)
    count = rng.poisson(size * rng.gamma(3, 0.3, 8)[group])
    X = group[:, None]
    rates = JamesSteinEstimator(group_features=0, method="gamma-poisson")
    with pytest.raises(ValueError, match="needs exposure="):
        cross_val_score(rates, X, count, cv=3, params={"exposure": size}, error_score="raise")
    with sklearn.config_context(enable_metadata_routing=True):
        routed = sklearn.clone(rates).set_fit_request(exposure=True).set_score_request(exposure=True)
        routed.set_fit_request(sample_weight=False).set_score_request(sample_weight=False)
        scores = cross_validate(routed, X, count, cv=3, params={"exposure": size}, error_score="raise")["test_score"]
        scorer = make_group_scorer(sklearn.metrics.mean_absolute_error)
        routed.fit(X, count, exposure=size)
        assert np.isfinite(scorer(routed, X, count, exposure=size))
        with pytest.raises(ValueError, match="fitted with exposure=, and none arrived"):
            scorer(routed, X, count)
    assert np.isfinite(scores).all()
    with pytest.warns(NoGroupsWarning):
        pooled = JamesSteinEstimator(method="gamma-poisson").fit(X, count, exposure=size)
    np.testing.assert_allclose(pooled.predict(X), count.sum() / size.sum())
    low, high = pooled.predict_interval(X[:1], kind="mean")[0]
    assert low < count.sum() / size.sum() < high
    assert len(pooled.theta_) == 0
    assert from_json(to_json(pooled)).predict(X[:1]) == pooled.predict(X[:1])
