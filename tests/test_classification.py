"""PartialPoolingClassifier against integrals by brute force, and its promises."""

import pickle

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy.special import expit, log_expit
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.multiclass import OneVsRestClassifier

from hbsk import PartialPoolingClassifier, from_json, to_json
from hbsk.exceptions import NoGroupsWarning, ShrinkageWarning

N, J = 240, 8


def make_data():
    rng = np.random.default_rng(16)
    group = np.concatenate([np.arange(J), rng.integers(0, J, N - J)])
    x = rng.normal(size=N)
    logit = 0.4 + 0.7 * x + np.linspace(-1.5, 1.5, J)[group]
    y = np.where(rng.random(N) < expit(logit), "yes", "no")
    return pd.DataFrame({"x": x, "g": [f"g{j}" for j in group]}), y


X, Y = make_data()
NEW = pd.DataFrame({"x": [0.0, -1.0, 1.0], "g": ["g0", "g7", "never"]})


@pytest.fixture(scope="module")
def model():
    return PartialPoolingClassifier(group_features="g").fit(X, Y)


class Brute:
    """The posterior of ``logit = b + tau z_j`` on a grid of (b, tau), z_j on a grid of their own: the definition."""

    def __init__(self, successes, trials, sd_of_b=1.5, scale_of_tau=2.5):
        b, tau, z = np.linspace(-7, 7, 141), np.linspace(0.0, 10.0, 161), np.linspace(-7, 7, 201)
        law = np.exp(-0.5 * z**2)
        law /= law.sum()
        eta = b[:, None, None] + tau[:, None] * z
        log_p, log_q, p = log_expit(eta), log_expit(-eta), expit(eta)
        prior = -0.5 * (b[:, None] / sd_of_b) ** 2 - 0.5 * (tau / scale_of_tau) ** 2
        log, known, squares = prior, [], []
        for a, m in zip(successes, trials, strict=True):
            term = np.exp(a * log_p + (m - a) * log_q)
            integral = term @ law
            log = log + np.log(integral)
            known.append(((p * term) @ law) / integral)
            squares.append(((p**2 * term) @ law) / integral)
        weight = np.exp(log - log.max())
        weight[:, [0, -1]] *= 0.5  # trapezoid rule
        weight /= weight.sum()
        self.known = np.array([np.sum(weight * each) for each in known])
        self.sd = np.sqrt(np.array([np.sum(weight * each) for each in squares]) - self.known**2)
        self.new = float(np.sum(weight * (p @ law)))
        self.b, self.tau = float(weight.sum(axis=1) @ b), float(weight.sum(axis=0) @ tau)


def rows_of(successes, trials):
    group = np.repeat(np.arange(len(trials)), trials)
    y = np.concatenate([np.arange(m) < a for a, m in zip(successes, trials, strict=True)]).astype(int)
    return group[:, None], y


@pytest.mark.parametrize(
    ("successes", "trials"),
    [((1, 4, 2, 9, 3), (6, 6, 6, 10, 10)), ((0, 5, 2, 4, 0), (5, 5, 3, 4, 1))],
    ids=["plain", "groups at the edge"],
)
def test_probabilities_are_integrals_over_the_posterior(successes, trials):
    brute = Brute(successes, trials)
    features, y = rows_of(successes, trials)
    fitted = PartialPoolingClassifier(group_features=0).fit(features, y)
    asked = np.append(np.arange(len(trials)), 99)[:, None]
    probability = fitted.predict_proba(asked)[:, 1]
    assert np.abs(probability[:-1] - brute.known).max() < 0.06 * brute.sd.min()
    assert probability[-1] == pytest.approx(brute.new, abs=4e-3)
    assert fitted.intercept_ == pytest.approx(brute.b, abs=0.02)
    assert fitted.group_sd_["x0"].iloc[0] == pytest.approx(brute.tau, rel=0.02)
    # and not inverse logits of means
    plugged = expit(fitted.group_effects_["mean"].to_numpy())
    assert np.abs(plugged - brute.known).max() > 0.2 * brute.sd.min()


def test_a_new_group_is_nearer_to_one_half_than_the_mean_predictor():
    features, y = rows_of((1, 4, 2, 9, 3, 1, 0), (6, 26, 6, 30, 10, 8, 9))
    fitted = PartialPoolingClassifier(group_features=0).fit(features, y)
    assert expit(fitted.intercept_) + 0.02 < fitted.predict_proba([[99]])[0, 1] < 0.5


def test_two_sides_of_a_probability(model):
    proba, logs = model.predict_proba(NEW), model.predict_log_proba(NEW)
    np.testing.assert_allclose(proba.sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(np.exp(logs), proba)
    np.testing.assert_allclose(model.decision_function(NEW), logs[:, 1] - logs[:, 0])
    assert model.predict(NEW).tolist() == np.where(proba[:, 1] > 0.5, "yes", "no").tolist()
    mirrored = clone(model).fit(X, np.where(Y == "yes", "a", "b"))  # "yes" is the first label now
    np.testing.assert_allclose(mirrored.predict_proba(NEW)[:, ::-1], proba, atol=1e-9)


def test_far_out_a_probability_does_not_round_to_zero(model):
    far = pd.DataFrame({"x": [60.0, -60.0], "g": ["g0", "g0"]})
    logs = model.predict_log_proba(far)
    assert np.isfinite(logs).all()
    assert logs[0, 0] < -8
    assert logs[1, 1] < -8


def test_intervals_are_quantiles_of_draws_of_the_probability(model):
    interval = model.predict_interval(NEW, coverage=0.8)
    posterior = model.to_datatree(draws=25_000, random_state=0)["posterior"]
    b = posterior["Intercept"].values.ravel() + posterior["x"].values.ravel() * -1.0
    effect = posterior["1|g"].sel(g__factor_dim="g7").values.ravel()
    np.testing.assert_allclose(interval[1], np.quantile(expit(b + effect), [0.1, 0.9]), atol=0.006)
    fresh = np.random.default_rng(1).normal(size=b.size) * posterior["1|g_sigma"].values.ravel()
    b = posterior["Intercept"].values.ravel() + posterior["x"].values.ravel()
    np.testing.assert_allclose(interval[2], np.quantile(expit(b + fresh), [0.1, 0.9]), atol=0.006)
    assert ((interval > 0) & (interval < 1)).all()


def test_samples_are_labels_with_the_probabilities_of_predict_proba(model):
    draws = model.sample_y(NEW, n_samples=40_000, random_state=3)
    assert draws.shape == (3, 40_000)
    assert set(np.unique(draws)) == {"no", "yes"}
    np.testing.assert_allclose((draws == "yes").mean(axis=1), model.predict_proba(NEW)[:, 1], atol=0.012)
    # rows of one new group share its effect
    twice = pd.DataFrame({"x": [0.0, 0.0, 0.0], "g": ["new", "new", "other"]})
    one, same, other = (model.sample_y(twice, n_samples=40_000, random_state=3) == "yes").astype(float)
    assert np.corrcoef(one, same)[0, 1] > np.corrcoef(one, other)[0, 1] + 0.05


def test_unknown_groups():
    nan = PartialPoolingClassifier(group_features="g", unknown_groups="nan").fit(X, Y)
    for answer in (nan.predict_proba, nan.predict_log_proba, nan.decision_function, nan.predict_interval):
        found = answer(NEW)
        assert np.isnan(found[2]).all()
        assert np.isfinite(found[:2]).all()
    for answer in (nan.predict, nan.sample_y, lambda rows: nan.score(rows, ["yes"] * 3)):
        with pytest.raises(ValueError, match=r"'never'.*NaN, which is no class"):
            answer(NEW)
    assert nan.predict(NEW[:2]).shape == (2,)
    error = PartialPoolingClassifier(group_features="g", unknown_groups="error").fit(X, Y)
    with pytest.raises(ValueError, match="'never'"):
        error.predict_proba(NEW)


@pytest.mark.parametrize("first", ["no", "yes"])
@pytest.mark.parametrize("dtype", [object, "string", "str"])
def test_text_classes_of_a_series_do_not_depend_on_which_comes_first(model, first, dtype):
    order = np.argsort(first != Y, kind="stable")
    found = PartialPoolingClassifier(group_features="g").fit(X.iloc[order], pd.Series(Y, dtype=dtype).iloc[order])
    assert found.classes_.tolist() == ["no", "yes"]
    np.testing.assert_allclose(found.predict_proba(NEW), model.predict_proba(NEW), atol=1e-9)


@pytest.mark.parametrize("labels", [(False, True), (0, 1), (-1, 1), ("b", "a"), (2.0, 5.0)])
def test_any_two_labels(model, labels):
    y = np.where(Y == "yes", labels[1], labels[0])
    fitted = PartialPoolingClassifier(group_features="g").fit(X, y)
    assert fitted.classes_.tolist() == sorted(labels)
    assert fitted.predict(X).dtype == y.dtype
    which = fitted.classes_.tolist().index(labels[1])
    np.testing.assert_allclose(fitted.predict_proba(NEW)[:, which], model.predict_proba(NEW)[:, 1], atol=1e-9)
    assert fitted.score(X, y) == model.score(X, Y)


def test_classes_are_those_of_rows_that_count():
    weight = np.ones(N)
    y = Y.astype(object)
    y[:5], weight[:5] = "maybe", 0.0
    fitted = PartialPoolingClassifier(group_features="g").fit(X, y, sample_weight=weight)
    assert fitted.classes_.tolist() == ["no", "yes"]
    np.testing.assert_allclose(
        fitted.predict_proba(NEW), PartialPoolingClassifier(group_features="g").fit(X[5:], Y[5:]).predict_proba(NEW)
    )


def test_weights_count_rows():
    weight = np.random.default_rng(0).integers(0, 4, N)
    weighted = PartialPoolingClassifier(group_features="g", slope_features="x").fit(X, Y, sample_weight=weight)
    repeated = PartialPoolingClassifier(group_features="g", slope_features="x").fit(
        X.loc[X.index.repeat(weight)], Y.repeat(weight)
    )
    np.testing.assert_allclose(weighted.predict_proba(NEW), repeated.predict_proba(NEW), atol=1e-7)


def test_what_is_refused():
    classifier = PartialPoolingClassifier(group_features="g")
    with pytest.raises(ValueError, match=r"Only binary classification is supported.*OneVsRestClassifier"):
        classifier.fit(X, np.arange(N) % 3)
    with pytest.raises(ValueError, match="one class only, 'yes'"):
        classifier.fit(X, ["yes"] * N)
    with pytest.raises(ValueError, match="one class only"):
        classifier.fit(X, Y, sample_weight=(Y == "yes").astype(float))
    with pytest.raises(ValueError, match="Unknown label type"):
        classifier.fit(X, X["x"])
    with pytest.raises(ValueError, match="binomial response has no residual sd"):
        PartialPoolingClassifier(group_features="g", priors={"sigma": 1.0}).fit(X, Y)
    with pytest.raises(NotFittedError):
        classifier.predict_proba(X)
    with pytest.raises(ValueError, match="'perhaps'"):
        classifier.fit(X, Y).to_datatree(NEW[:1], ["perhaps"])
    objects = np.array([True, False] * (len(X) // 2), dtype=object)
    with pytest.raises(ValueError, match=r"Unknown label type.* objects \(bool\).* y.astype\(bool\)"):
        PartialPoolingClassifier(group_features="g").fit(X[: len(objects)], objects)


def test_groups_by_keyword_are_routed(model):
    by_keyword = PartialPoolingClassifier().fit(X[["x"]], Y, groups=X["g"])
    np.testing.assert_allclose(by_keyword.predict_proba(NEW[["x"]], groups=NEW["g"]), model.predict_proba(NEW))
    assert by_keyword.score(X[["x"]], Y, groups=X["g"]) == model.score(X, Y)
    with pytest.raises(ValueError, match="groups= is missing"):
        by_keyword.predict_proba(NEW[["x"]])
    with sklearn.config_context(enable_metadata_routing=True):
        asked = PartialPoolingClassifier().set_predict_proba_request(groups=True)
        assert asked.get_metadata_routing().predict_proba.requests["groups"] is True
        named = asked.set_params(group_features="g")
        assert named.get_metadata_routing().predict_proba.requests["groups"] is False


def test_without_groups_and_with_groups_of_one_row():
    with pytest.warns(NoGroupsWarning):
        PartialPoolingClassifier().fit(X[["x"]], Y)
    with pytest.warns(ShrinkageWarning, match=r"Pass more rows for each group"):
        PartialPoolingClassifier(group_features="row").fit(X[["x"]][:40].assign(row=np.arange(40)), Y[:40])


def test_pooling(model):
    complete = PartialPoolingClassifier(group_features="g", pooling="complete").fit(X, Y)
    assert np.ptp(complete.predict_proba(NEW.assign(x=0.0))[:, 1]) == 0
    none = PartialPoolingClassifier(group_features="g", pooling="none").fit(X, Y)
    assert none.priors_["1|g"] == ("Normal", {"mu": 0.0, "sigma": 2.5})
    assert none.group_sd_["g"].iloc[0] == pytest.approx(2.5)
    own = pd.Series(Y == "yes").groupby(X["g"]).mean()
    at = pd.DataFrame({"x": 0.0, "g": own.index})
    pooled, free = model.predict_proba(at)[:, 1], none.predict_proba(at)[:, 1]
    assert np.ptp(free) > np.ptp(pooled)


def test_fixed_means_of_effects_move_every_group(model):
    priors = {"1|g": ("Normal", {"mu": 2.0, "sigma": ("HalfNormal", {"sigma": 2.5})}), "Intercept": ("Flat", {})}
    moved = PartialPoolingClassifier(group_features="g", priors=priors).fit(X, Y)
    priors["1|g"] = ("Normal", {"mu": 0.0, "sigma": ("HalfNormal", {"sigma": 2.5})})
    plain = PartialPoolingClassifier(group_features="g", priors=priors).fit(X, Y)
    assert moved.intercept_ == pytest.approx(plain.intercept_ - 2.0, abs=1e-6)
    np.testing.assert_allclose(moved.predict_proba(NEW), plain.predict_proba(NEW), atol=1e-7)
    np.testing.assert_allclose(moved.group_effects_["mean"], plain.group_effects_["mean"], atol=1e-6)
    np.testing.assert_allclose(moved.group_effects_["no_pooling"], plain.group_effects_["no_pooling"], atol=1e-6)


def test_json_and_pickle_answer_the_same(model):
    for other in (from_json(to_json(model)), pickle.loads(pickle.dumps(model))):
        for method in ("predict", "predict_proba", "predict_interval", "decision_function"):
            np.testing.assert_array_equal(getattr(other, method)(NEW), getattr(model, method)(NEW))
        pd.testing.assert_frame_equal(other.group_effects(), model.group_effects())
        pd.testing.assert_frame_equal(other.summary(), model.summary())
        draws = [each.sample_y(NEW, random_state=0) for each in (other, model)]
        np.testing.assert_array_equal(*draws)


def test_one_against_the_rest():
    kinds = np.where(X["x"] > 0.7, "high", np.where(Y == "yes", "middle", "low"))
    many = OneVsRestClassifier(PartialPoolingClassifier(group_features="g")).fit(X, kinds)
    proba = many.predict_proba(X)
    assert proba.shape == (N, 3)
    assert (many.predict(X) == kinds).mean() > 0.6


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_labels_that_are_missing_are_named(missing):
    y = np.array(["yes", "no", missing, "yes"], dtype=object)
    with pytest.raises(ValueError, match="labels are missing in 1 of the 4 rows"):
        PartialPoolingClassifier(group_features=0).fit(np.array([[0], [0], [1], [1]]), y)
