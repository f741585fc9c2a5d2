"""The estimators have the same names for the same things."""

import numpy as np
import pandas as pd
import pytest
from sklearn.utils import get_tags

from hbsk import JamesSteinEstimator, PartialPoolingRegressor
from tests.own_weights import own_weights

# What only one of them has: no posterior of variances, correlations or chains; a target, and arrays of its own.
POSTERIOR_ONLY = {
    "chains", "collect", "correlated", "diagnostics_", "draws", "formula", "formula_", "group_correlation_",
    "inference", "inference_", "n_jobs", "partial_fit", "pooling", "priors", "priors_", "random_state",
    "sampler_options", "set_partial_fit_request", "slope_features", "to_bambi", "to_datatree", "tune",
    "verbose",
}  # fmt: skip
SHRINKAGE_ONLY = {
    "between_group_variance", "between_group_variance_", "group_means_", "group_sizes_", "group_standard_errors_",
    "method", "positive_part", "sigma2_", "target", "target_", "theta_", "theta_sd_",
}  # fmt: skip


def schools(n_groups=12, seed=0):
    rng = np.random.default_rng(seed)
    size = rng.integers(2, 9, n_groups)
    code = np.repeat(np.arange(n_groups), size)
    X = pd.DataFrame({"school": [f"s{c:02d}" for c in code], "x": rng.normal(size=len(code)) + 0.3 * code})
    return X, rng.normal(size=n_groups)[code] + X["x"] + rng.normal(size=len(code))


def public(estimator):
    return {name for name in dir(estimator) if not name.startswith("_")}


@pytest.fixture(scope="module")
def both():
    X, y = schools()
    pooled = PartialPoolingRegressor(group_features="school").fit(X, y)
    return X, y, pooled, JamesSteinEstimator(group_features="school", target="regression").fit(X, y)


def test_public_names_are_the_same_as_far_as_each_has_the_thing(both):
    _, _, pooled, shrunken = both
    assert public(pooled) - public(shrunken) == POSTERIOR_ONLY
    assert public(shrunken) - public(pooled) == SHRINKAGE_ONLY


def test_same_names_are_the_same_kinds_of_things(both):
    _, _, pooled, shrunken = both
    for name in ("groups_", "shrinkage_", "group_sd_", "coef_names_", "coef_", "intercept_", "sigma_"):
        ours, theirs = getattr(shrunken, name), getattr(pooled, name)
        assert type(ours) is type(theirs), name
        if isinstance(theirs, dict):
            assert list(ours) == list(theirs) == ["school"]
            assert type(ours["school"]) is type(theirs["school"])
    pd.testing.assert_index_equal(shrunken.shrinkage_["school"].index, pooled.shrinkage_["school"].index)
    assert list(shrunken.shrinkage_["school"]) == list(pooled.shrinkage_["school"])
    assert list(shrunken.group_sd_["school"].index) == list(pooled.group_sd_["school"].index)
    assert shrunken.coef_names_ == pooled.coef_names_ == ["x"]
    assert list(shrunken.group_effects()) == list(pooled.group_effects())
    assert list(shrunken.group_effects_) == list(pooled.group_effects_)
    assert list(shrunken.rank_groups(top=2)) == list(pooled.rank_groups(top=2))
    more = {"between_group_variance"}  # an estimate of its own, with an interval
    assert [name for name in shrunken.summary().index if name not in more] == list(pooled.summary().index)
    for tag in ("categorical", "string"):
        assert getattr(get_tags(shrunken).input_tags, tag)
        assert getattr(get_tags(pooled).input_tags, tag)


def test_tables_say_what_the_arrays_say(both):
    X, _, _, shrunken = both
    table = shrunken.group_effects(coverage=0.8)
    np.testing.assert_array_equal(table["mean"], shrunken.theta_)
    np.testing.assert_array_equal(table["sd"], shrunken.theta_sd_)
    np.testing.assert_array_equal(table["no_pooling"], shrunken.group_means_)
    np.testing.assert_array_equal(table["n"], shrunken.group_sizes_)
    np.testing.assert_array_equal(table["shrinkage"], own_weights(shrunken))
    average = X.groupby("school", as_index=False)["x"].mean()
    ends = shrunken.predict_interval(average[["school", "x"]], coverage=0.8, kind="mean")
    np.testing.assert_allclose(table[["eti80_lb", "eti80_ub"]], ends, rtol=1e-9)
    assert shrunken.sigma_**2 == pytest.approx(shrunken.sigma2_)
    assert shrunken.group_sd_["school"].iloc[0] ** 2 == pytest.approx(shrunken.between_group_variance_)
    summary = shrunken.summary(coverage=0.8)
    assert summary.loc["Intercept", "mean"] == shrunken.intercept_
    assert summary.loc["x", "mean"] == shrunken.coef_[0]
    assert summary.loc["x", "eti80_lb"] < shrunken.coef_[0] < summary.loc["x", "eti80_ub"]
    assert summary.loc["sigma", "eti80_lb"] < shrunken.sigma_ < summary.loc["sigma", "eti80_ub"]
    ranks = shrunken.rank_groups(top=12)
    assert ranks["expected_rank"].sum() == pytest.approx(12 * 13 / 2)
    # the first three of all groups, with their ranks among all
    top = shrunken.rank_groups(top=3)
    pd.testing.assert_frame_equal(top.iloc[:, :4], ranks.iloc[:3, :4])
    assert list(top) == [*ranks.columns[:4], "p_top_3"]
    assert 1 < top["p_top_3"].sum() < 3
    assert ranks.index[0] == shrunken.groups_["school"][np.argmax(shrunken.theta_)]


@pytest.mark.parametrize("target", ["mean", "regression", "zero"])
@pytest.mark.parametrize("method", ["james-stein", "empirical-bayes"])
def test_draws_have_the_margins_of_the_intervals(target, method):
    X, y = schools()
    model = JamesSteinEstimator(group_features="school", target=target, method=method).fit(X, y)
    rows = pd.concat([X.iloc[[0, 1, 9, 30]], pd.DataFrame({"school": ["new", "new", "other"], "x": [0.0, 0.0, 0.0]})])
    draws = model.sample_y(rows, n_samples=40_000, random_state=0)
    ends = model.predict_interval(rows, coverage=0.8)
    inside = np.mean((draws > ends[:, :1]) & (draws < ends[:, 1:]), axis=1)
    np.testing.assert_allclose(inside, 0.8, atol=0.01)
    np.testing.assert_allclose(np.median(draws, axis=1), model.predict(rows), atol=0.05)
    # rows of one new label share its mean, rows of two do not
    together = np.var(draws[4] - draws[5]), np.var(draws[4] - draws[6])
    assert together[0] == pytest.approx(2 * model.sigma2_ * np.mean(np.square(spread(model, 40_000))), rel=0.1)
    assert together[1] > together[0]


def spread(model, n_draws):
    """Return the scales of the draws: the rows within groups leave the variance uncertain."""
    degrees = model.group_sizes_.sum() - len(model.theta_) - len(getattr(model, "coef_", ()))
    return np.sqrt(degrees / np.random.default_rng(1).chisquare(degrees, n_draws))


def test_without_groups_there_are_slopes_and_no_tables_of_groups():
    X, y = schools()
    with pytest.warns(match="No groups|fewer than 3"):
        model = JamesSteinEstimator().fit(X[["x"]], y)
    assert model.groups_ == model.shrinkage_ == model.group_sd_ == {}
    assert list(model.group_effects()) == [] or len(model.group_effects()) == 0
    assert list(model.summary().index) == ["Intercept", "x", "sigma"]
    draws = model.sample_y(X[["x"]].head(3), n_samples=20_000, random_state=0)
    ends = model.predict_interval(X[["x"]].head(3), coverage=0.8)
    np.testing.assert_allclose(np.mean((draws > ends[:, :1]) & (draws < ends[:, 1:]), axis=1), 0.8, atol=0.01)
    with pytest.raises(ValueError, match="no groups to rank"):
        model.rank_groups()


def test_known_errors_are_asked_for_and_unknown_sds_are_not_made_up():
    X, y = np.arange(6)[:, None], np.array([1.0, 2.0, 0.5, 1.5, 3.0, 2.5])
    model = JamesSteinEstimator(group_features=0).fit(X, y, standard_error=1.0)
    with pytest.raises(ValueError, match="sample_y needs standard_error="):
        model.sample_y(X)
    assert model.sample_y(X, n_samples=2, standard_error=0.5, random_state=0).shape == (6, 2)
    assert list(model.summary().index) == ["Intercept", "between_group_variance", "1|x0_sigma"]
    with pytest.warns(match="returned as they are"):
        unknown = JamesSteinEstimator(group_features=0).fit(X, y)
    assert np.isnan(unknown.sample_y(X)).all()
    with pytest.raises(ValueError, match="cannot be ranked"):
        unknown.rank_groups()
    with pytest.raises(ValueError, match="no varying term"):
        model.rank_groups("x|x0")
