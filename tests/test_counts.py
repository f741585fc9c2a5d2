"""PartialPoolingCountRegressor: forms of the same data, exposure that is never lost, and its promises."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy.stats import binom, poisson
from sklearn.base import clone
from sklearn.metrics import d2_tweedie_score, mean_poisson_deviance
from sklearn.model_selection import GridSearchCV, cross_val_score, cross_validate

from hbsk import PartialPoolingClassifier, PartialPoolingCountRegressor, from_json, to_json
from hbsk.exceptions import NonIntegerCountWarning
from hbsk.model_selection import make_group_scorer
from hbsk.predictive_checks import posterior_predictive_check

N, J = 120, 10


def make_counts():
    rng = np.random.default_rng(3)
    group = np.concatenate([np.arange(J), rng.integers(0, J, N - J)])
    x, exposure = rng.normal(size=N), rng.uniform(0.5, 20.0, N)
    rate = np.exp(-0.7 + 0.4 * x + 0.5 * rng.normal(size=J)[group])
    X = pd.DataFrame({"x": x, "g": [f"g{j}" for j in group]})
    trials = rng.integers(1, 12, N)
    return X, rng.poisson(exposure * rate), exposure, rng.binomial(trials, rate / (1 + rate)), trials


X, COUNT, EXPOSURE, SUCCESS, TRIALS = make_counts()
NEW = pd.DataFrame({"x": [0.0, -1.0, 1.0], "g": ["g0", "g7", "never"]})
GIVEN = {
    "Intercept": ("Normal", {"mu": -0.5, "sigma": 2.0}),
    "x": ("Normal", {"mu": 0.0, "sigma": 1.0}),
    "1|g": ("Normal", {"mu": 0.0, "sigma": ("HalfNormal", {"sigma": 1.0})}),
}


def counts(**parameters):
    return PartialPoolingCountRegressor(group_features="g", **parameters)


@pytest.fixture(scope="module")
def model():
    return counts().fit(X, COUNT, exposure=EXPOSURE)


@pytest.fixture(scope="module")
def shares():
    return counts(family="binomial").fit(X, SUCCESS, trials=TRIALS)


# forms of the same data


@pytest.mark.parametrize("priors", [None, GIVEN])
def test_rates_weighted_by_exposure_are_the_same_likelihood(priors):
    by_keyword = counts(priors=priors).fit(X, COUNT, exposure=EXPOSURE)
    by_weight = counts(priors=priors).fit(X, COUNT / EXPOSURE, sample_weight=EXPOSURE)
    np.testing.assert_allclose(by_weight.predict(NEW), by_keyword.predict(NEW), rtol=1e-9)
    np.testing.assert_allclose(by_weight.predict_interval(NEW), by_keyword.predict_interval(NEW), rtol=1e-9)
    assert by_weight.score(X, COUNT / EXPOSURE, EXPOSURE) == pytest.approx(
        by_keyword.score(X, COUNT, exposure=EXPOSURE)
    )


@pytest.mark.parametrize("priors", [None, GIVEN])
def test_three_forms_of_successes(priors):
    by_keyword = counts(family="binomial", priors=priors).fit(X, SUCCESS, trials=TRIALS)
    by_weight = counts(family="binomial", priors=priors).fit(X, SUCCESS / TRIALS, sample_weight=TRIALS)
    rows = X.loc[X.index.repeat(TRIALS)]
    y = np.concatenate([np.arange(m) < a for a, m in zip(SUCCESS, TRIALS, strict=True)]).astype(int)
    one_by_one = counts(family="binomial", priors=priors).fit(rows, y)
    classes = PartialPoolingClassifier(group_features="g", priors=priors).fit(rows, y)
    for other in (by_weight, one_by_one):
        np.testing.assert_allclose(other.predict(NEW), by_keyword.predict(NEW), rtol=1e-7)
        np.testing.assert_allclose(other.predict_interval(NEW), by_keyword.predict_interval(NEW), rtol=1e-6)
    np.testing.assert_allclose(classes.predict_proba(NEW)[:, 1], by_keyword.predict(NEW), rtol=1e-7)
    assert by_weight.score(X, SUCCESS / TRIALS, TRIALS) == pytest.approx(by_keyword.score(X, SUCCESS, trials=TRIALS))
    np.testing.assert_array_equal(by_keyword.group_effects_["n"], one_by_one.group_effects_["n"])


def test_a_row_split_in_two_changes_nothing(model):
    part = np.random.default_rng(0).uniform(0.2, 0.8, N)
    first = np.random.default_rng(1).binomial(COUNT, part)
    split = counts().fit(
        pd.concat([X, X]), np.append(first, COUNT - first), exposure=np.append(part * EXPOSURE, (1 - part) * EXPOSURE)
    )
    np.testing.assert_allclose(split.predict(NEW), model.predict(NEW), rtol=1e-7)


@pytest.mark.parametrize("unit", [1e-6, 1e-3, 1e6])
def test_the_unit_of_exposure_moves_the_intercept_only(model, unit):
    scaled = counts().fit(X, COUNT, exposure=EXPOSURE * unit)
    assert scaled.intercept_ == pytest.approx(model.intercept_ - np.log(unit), abs=1e-6)
    np.testing.assert_allclose(scaled.coef_, model.coef_, rtol=1e-6)
    np.testing.assert_allclose(scaled.predict(NEW) * unit, model.predict(NEW), rtol=1e-6)
    np.testing.assert_allclose(scaled.group_effects_["shrinkage"], model.group_effects_["shrinkage"], rtol=1e-6)


def test_weights_count_rows():
    weight = np.random.default_rng(5).integers(0, 4, N)
    weighted = counts().fit(X, COUNT, exposure=EXPOSURE, sample_weight=weight)
    repeated = counts().fit(X.loc[X.index.repeat(weight)], COUNT.repeat(weight), exposure=EXPOSURE.repeat(weight))
    np.testing.assert_allclose(weighted.predict(NEW), repeated.predict(NEW), rtol=1e-7)


# the score


def test_score_is_the_share_of_the_tweedie_deviance(model):
    weight = np.random.default_rng(2).uniform(0.0, 3.0, N)
    expected = d2_tweedie_score(COUNT / EXPOSURE, model.predict(X), sample_weight=weight * EXPOSURE, power=1)
    assert model.score(X, COUNT, weight, exposure=EXPOSURE) == pytest.approx(expected, rel=1e-12)


def test_binomial_score_is_that_of_log_likelihoods(shares):
    mean = shares.predict(X)
    pooled = SUCCESS.sum() / TRIALS.sum()
    log = [binom.logpmf(SUCCESS, TRIALS, p).sum() for p in (SUCCESS / TRIALS, mean, np.full(N, pooled))]
    assert shares.score(X, SUCCESS, trials=TRIALS) == pytest.approx(1 - (log[0] - log[1]) / (log[0] - log[2]), rel=1e-9)


def test_rows_that_do_not_vary(model):
    assert model.score(X[:4], [0, 0, 0, 0], exposure=1.0) == 0.0
    assert model.score(X[:3], [2, 4, 6], exposure=[1, 2, 3]) == 0.0


# exposure must not get lost


def test_without_its_exposure_an_estimator_refuses(model, shares):
    for ask in (
        lambda: model.score(X, COUNT),
        lambda: model.sample_y(X),
        lambda: model.predict_interval(X, kind="prediction"),
        lambda: model.to_datatree(X, COUNT),
    ):
        with pytest.raises(ValueError, match=r"needs exposure= .*was fitted with it.*sample_weight=exposure"):
            ask()
    with pytest.raises(ValueError, match=r"score needs trials="):
        shares.score(X, SUCCESS)
    plain = counts().fit(X, COUNT)
    assert np.isfinite(plain.score(X, COUNT))
    assert plain.sample_y(X).shape == (N, 1)


def test_default_scores_of_a_search_fail_aloud_where_exposure_was_lost():
    with pytest.warns(UserWarning, match="needs exposure="):
        scores = cross_val_score(counts(), X, COUNT, params={"exposure": EXPOSURE}, cv=2)
    assert np.isnan(scores).all()


def test_weights_carry_exposure_through_searches():
    with sklearn.config_context(enable_metadata_routing=True):
        routed = counts().set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        search = GridSearchCV(routed, {"pooling": ["partial", "complete"]}, cv=3)
        search.fit(X, COUNT / EXPOSURE, sample_weight=EXPOSURE)
        by_weight = search.cv_results_["mean_test_score"]
        asked = {"exposure": True}
        routed = counts().set_fit_request(**asked).set_score_request(**asked)
        search = GridSearchCV(routed, {"pooling": ["partial", "complete"]}, cv=3).fit(X, COUNT, exposure=EXPOSURE)
    np.testing.assert_allclose(search.cv_results_["mean_test_score"], by_weight, rtol=1e-9)
    assert by_weight[0] > by_weight[1]


def test_group_scorers_forward_exposure(model):
    scorer = make_group_scorer(mean_poisson_deviance, greater_is_better=False)
    found = scorer(model, X, COUNT, exposure=EXPOSURE)
    expected = mean_poisson_deviance(COUNT / EXPOSURE, model.predict(X), sample_weight=EXPOSURE)
    assert found == pytest.approx(-expected)
    weight = np.arange(1.0, N + 1)
    expected = mean_poisson_deviance(COUNT / EXPOSURE, model.predict(X), sample_weight=EXPOSURE * weight)
    assert scorer(model, X, COUNT, exposure=EXPOSURE, sample_weight=weight) == pytest.approx(-expected)
    with pytest.raises(ValueError, match=r"fitted with exposure=.*make_group_scorer"):
        scorer(model, X, COUNT)

    def total(y_true, y_pred, exposure):
        return float(np.sum(y_true) - np.sum(y_pred * exposure))

    assert make_group_scorer(total)(model, X, COUNT, exposure=EXPOSURE) == pytest.approx(
        COUNT.sum() - model.predict(X) @ EXPOSURE
    )
    with sklearn.config_context(enable_metadata_routing=True):
        routed = counts().set_fit_request(exposure=True)
        scores = cross_validate(
            routed, X, COUNT, cv=2, scoring=scorer, params={"exposure": EXPOSURE}, error_score="raise"
        )["test_score"]
    assert (scores < 0).all()

    def plain(y_true, y_pred):
        return 0.0

    with pytest.raises(TypeError, match="neither exposure nor sample_weight"):
        make_group_scorer(plain)(model, X, COUNT, exposure=EXPOSURE)


# answers


def test_predictions_are_means_of_draws(model, shares):
    for fitted, name, size in ((model, "exposure", 7.0), (shares, "trials", 7)):
        rows = NEW[:2]
        draws = fitted.sample_y(rows, n_samples=40_000, random_state=0, **{name: size})
        np.testing.assert_allclose(draws.mean(axis=1) / size, fitted.predict(rows), rtol=0.02)
        interval = fitted.predict_interval(rows, kind="prediction", **{name: size})
        np.testing.assert_allclose(interval, np.quantile(draws, [0.05, 0.95], axis=1).T, atol=1.0)
        inside = ((draws >= interval[:, :1]) & (draws <= interval[:, 1:])).mean(axis=1)
        assert (inside > 0.89).all()
        mean = fitted.predict_interval(rows)
        assert (mean[:, 0] < fitted.predict(rows)).all()
        assert (fitted.predict(rows) < mean[:, 1]).all()


def test_a_count_interval_of_a_sharp_posterior_is_that_of_its_distribution():
    fixed = {"Intercept": ("Normal", {"mu": np.log(3.0), "sigma": 1e-6})}
    known = PartialPoolingCountRegressor("1", pooling="complete", priors=fixed).fit(X, COUNT)
    interval = known.predict_interval(X[:1], coverage=0.8, kind="prediction")
    np.testing.assert_array_equal(interval[0], poisson.ppf([0.1, 0.9], 3.0))


def test_unknown_groups(model):
    nan = counts(unknown_groups="nan").fit(X, COUNT, exposure=EXPOSURE)
    assert np.isnan(nan.predict(NEW)).tolist() == [False, False, True]
    assert np.isnan(nan.sample_y(NEW, exposure=1.0)[2]).all()
    assert np.isnan(nan.predict_interval(NEW, kind="prediction", exposure=1.0)[2]).all()
    with pytest.raises(ValueError, match="'never'"):
        counts(unknown_groups="error").fit(X, COUNT).predict(NEW)
    known = model.predict_interval(NEW.assign(g="g0", x=0.0))
    assert np.diff(model.predict_interval(NEW.assign(x=0.0)))[2] > 2 * np.diff(known)[0]


def test_edges():
    zero = counts().fit(X, np.zeros(N), exposure=EXPOSURE)
    assert (zero.predict(X) >= 0).all()
    assert (zero.predict(X) < COUNT.sum() / EXPOSURE.sum()).all()
    for all_of_them in (np.zeros(N), TRIALS):
        edge = counts(family="binomial").fit(X, all_of_them, trials=TRIALS)
        assert np.isfinite(edge.predict_interval(NEW)).all()
        assert set(edge.group_effects_["no_pooling"]) == {np.inf if all_of_them.any() else -np.inf}
    wide = 10.0 ** np.random.default_rng(0).uniform(-6, 6, N)
    fitted = counts().fit(X, np.random.default_rng(1).poisson(0.3 * wide), exposure=wide)
    assert np.isfinite(fitted.predict(NEW)).all()


def test_own_estimates_are_rates_of_groups():
    plain = PartialPoolingCountRegressor("(1 | g)").fit(X, COUNT, exposure=EXPOSURE)
    sums = pd.DataFrame({"y": COUNT, "e": EXPOSURE}).groupby(X["g"].to_numpy()).sum()
    np.testing.assert_allclose(plain.group_effects_["no_pooling"], np.log(sums["y"] / sums["e"]), rtol=1e-9)
    np.testing.assert_allclose(plain.group_effects_["n"], sums["e"])


def test_json_and_pickle_answer_the_same(model):
    for other in (from_json(to_json(model)), pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(other.predict(NEW), model.predict(NEW))
        np.testing.assert_array_equal(other.predict_interval(NEW), model.predict_interval(NEW))
        pd.testing.assert_frame_equal(other.group_effects(), model.group_effects())
        with pytest.raises(ValueError, match="needs exposure="):
            other.score(X, COUNT)


# what is refused


@pytest.mark.parametrize(
    ("family", "y", "more", "match"),
    [
        ("poisson", -COUNT, {}, "counts, 0 or more"),
        ("poisson", COUNT, {"exposure": np.where(np.arange(N) == 3, 0.0, 1.0)}, "exposure must be positive.*row 3"),
        ("poisson", COUNT, {"exposure": -1.0}, "exposure must be positive"),
        ("poisson", COUNT, {"exposure": EXPOSURE[:5]}, "exposure has 5 values"),
        ("poisson", COUNT, {"trials": TRIALS}, "trials= was given with family='poisson', which has exposure="),
        ("binomial", SUCCESS, {"exposure": 1.0}, "exposure= was given with family='binomial', which has trials="),
        ("binomial", TRIALS + 1, {"trials": TRIALS}, "row 0 has .* successes in"),
        ("binomial", SUCCESS, {}, "between 0 and 1 where no trials= are passed"),
        ("binomial", SUCCESS / TRIALS, {}, "how many trials there were is not said"),
        ("binomial", -SUCCESS, {"trials": TRIALS}, "successes, 0 or more"),
    ],
)
def test_what_is_refused(family, y, more, match):
    with pytest.raises(ValueError, match=match):
        counts(family=family).fit(X, y, **more)


def test_fractions_are_said():
    with pytest.warns(NonIntegerCountWarning, match=r"pass counts with exposure=.*sample_weight=exposure"):
        counts().fit(X, COUNT / EXPOSURE)
    with pytest.raises(ValueError, match="no trials="):
        counts(family="binomial").fit(X, SUCCESS)
    fractions = counts(family="binomial").fit(X, SUCCESS, trials=TRIALS + 0.5)
    with pytest.raises(ValueError, match="trials must be whole numbers for sample_y"):
        fractions.sample_y(X, trials=0.5)
    with pytest.raises(ValueError, match="was given with kind='mean'"):
        counts().fit(X, COUNT).predict_interval(X, exposure=2.0)


def test_clone_and_tags():
    estimator = PartialPoolingCountRegressor(family="binomial", draws=10)
    assert clone(estimator).get_params() == estimator.get_params()
    assert sklearn.utils.get_tags(PartialPoolingCountRegressor()).target_tags.positive_only
    assert not sklearn.utils.get_tags(estimator).target_tags.positive_only


def test_outcomes_are_not_compared_with_rates_in_silence():
    """After a fit to proportions and weights a check took them for outcomes of one trial each, and the model failed."""
    share = SUCCESS / TRIALS
    model = counts(family="binomial").fit(X, share, sample_weight=TRIALS)
    for compare in (posterior_predictive_check, lambda model, X, y: model.to_datatree(X, y, draws=10)):
        with pytest.raises(ValueError, match=r"y holds proportions.*pass successes with trials="):
            compare(model, X, share)
    table = posterior_predictive_check(model, X, SUCCESS, trials=TRIALS, random_state=0).p_value
    assert table["dispersion"] > 0.01
    with pytest.raises(ValueError, match="y must not exceed trials="):
        posterior_predictive_check(model, X, TRIALS + 1, trials=TRIALS)
    rates = counts().fit(X, COUNT / EXPOSURE, sample_weight=EXPOSURE)
    for compare in (posterior_predictive_check, lambda model, X, y: model.to_datatree(X, y, draws=10)):
        with pytest.warns(NonIntegerCountWarning, match="pass counts with exposure="):
            compare(rates, X, COUNT / EXPOSURE)
