"""PartialPoolingEncoder: values by JamesSteinEstimator and by hand, cross-fitting by refits, containers, refusals."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse, stats
from scipy.optimize import minimize
from sklearn import config_context
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, KFold, ShuffleSplit, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from hbsk import JamesSteinEstimator, PartialPoolingEncoder, from_json, to_json
from hbsk.exceptions import LabelMismatchWarning, ManyClassesWarning, ShrinkageWarning


def shops(n_rows=200, n_shops=30, seed=0):
    rng = np.random.default_rng(seed)
    code = np.minimum(rng.geometric(0.12, n_rows) - 1, n_shops - 1)
    X = pd.DataFrame({"shop": [f"s{c:02d}" for c in code], "town": code // 4, "price": rng.normal(size=n_rows)})
    return X, rng.normal(size=n_shops)[code] + rng.normal(size=n_rows)


def shares_by_hand(label, success):
    """Beta-binomial empirical Bayes by scipy's own likelihood and a general optimiser: share of each label."""
    names = np.unique(label)
    n = np.array([(label == name).sum() for name in names])
    a = np.array([success[label == name].sum() for name in names])

    def cost(z):
        kappa, mean = np.exp(z[0]), 1 / (1 + np.exp(-z[1]))
        return -stats.betabinom.logpmf(a, n, kappa * mean, kappa * (1 - mean)).sum()

    best = minimize(cost, [1.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-12, "maxiter": 2000})
    kappa, mean = np.exp(best.x[0]), 1 / (1 + np.exp(-best.x[1]))
    return names, (a + kappa * mean) / (n + kappa), mean


# ---------------------------------------------------------------------------------------------------------------------
# Values


@pytest.mark.parametrize("method", ["empirical-bayes", "james-stein", "sure"])
def test_numbers_are_those_of_the_estimator(method):
    X, y = shops()
    model = JamesSteinEstimator(group_features="shop", method=method).fit(X[["shop"]], y)
    encoder = PartialPoolingEncoder("shop", method=method, add=("sd", "count")).fit(X, y)
    new = pd.DataFrame({"shop": ["s03", "never", "s00"], "town": 0, "price": 1.5})
    encoded = encoder.transform(new)
    np.testing.assert_allclose(encoded[:, 0], model.predict(new[["shop"]]), rtol=1e-12)
    places = [list(model.groups_["shop"]).index(s) for s in ("s03", "s00")]
    np.testing.assert_allclose(encoded[[0, 2], 1], model.theta_sd_[places], rtol=1e-12)
    np.testing.assert_array_equal(encoded[:, 2], [(X.shop == s).sum() for s in ("s03", "never", "s00")])
    np.testing.assert_array_equal(encoded[:, 3:], new[["town", "price"]])
    # the sd of an observation holds that of the mean, and sigma
    _, sd = model.predict(new[["shop"]], return_std=True)
    np.testing.assert_allclose(encoded[:, 1], np.sqrt(sd**2 - model.sigma2_), rtol=1e-9)


def test_shares_are_beta_binomial():
    X, y = shops()
    success = y > 0.3
    names, share, mean = shares_by_hand(X.shop.to_numpy(), success)
    encoder = PartialPoolingEncoder().fit(X[["shop"]], np.where(success, "yes", "no"))
    assert encoder.classes_.tolist() == ["no", "yes"]
    assert encoder.target_type_ == "binary"
    new = pd.DataFrame({"shop": [*names, "never"]})
    np.testing.assert_allclose(encoder.transform(new).ravel(), [*share, mean], rtol=1e-4)
    np.testing.assert_allclose(encoder.target_mean_, success.mean(), rtol=1e-12)


def test_several_classes_are_one_against_the_rest():
    X, y = shops()
    kind = np.digitize(y, [-0.5, 0.5])
    encoder = PartialPoolingEncoder(add=("count", "sd")).fit(X[["shop"]], kind)
    head = [f"shop_{c}{part}" for c in range(3) for part in ("", "_sd")]
    assert encoder.get_feature_names_out().tolist() == [*head, "shop_count"]
    encoded = encoder.transform(X[["shop"]])
    for c in range(3):
        alone = PartialPoolingEncoder(add=("sd",)).fit(X[["shop"]], kind == c)
        np.testing.assert_allclose(encoded[:, 2 * c : 2 * c + 2], alone.transform(X[["shop"]]), rtol=1e-12)
    assert encoder.encodings_["shop"].shape == (X.shop.nunique(), 3)


# ---------------------------------------------------------------------------------------------------------------------
# Cross-fitting


@pytest.mark.parametrize("kind", ["continuous", "binary", "multiclass"])
@pytest.mark.parametrize("weighted", [False, True])
def test_each_fold_is_encoded_by_a_fit_to_the_others(kind, weighted):
    X, y = shops(120)
    X = X[["shop"]]
    target = {"continuous": y + 1e3, "binary": y > 0, "multiclass": np.digitize(y, [-0.5, 0.5])}[kind]
    weight = np.random.default_rng(1).integers(0, 4, len(y)) if weighted else None
    cv = KFold(2, shuffle=True, random_state=3)
    encoder = PartialPoolingEncoder(target_type=kind, cv=cv, add=("sd", "count"))
    found = encoder.fit_transform(X, target, sample_weight=weight)
    for train, test in cv.split(X):
        part = None if weight is None else weight[train]
        other = clone(encoder).fit(X.iloc[train], target[train], sample_weight=part)
        np.testing.assert_allclose(found[test], other.transform(X.iloc[test]), rtol=1e-8)
    whole = clone(encoder).fit(X, target, sample_weight=weight)
    np.testing.assert_array_equal(encoder.transform(X), whole.transform(X))


def test_default_folds_are_those_of_scikit_learn():
    X, y = shops()
    three = np.array(["low", "some", "high"])[np.digitize(y, [-1, 0.5])]
    for target, folds in ((y, KFold), (y > 0, StratifiedKFold), (pd.Series(three), StratifiedKFold)):
        ours = PartialPoolingEncoder(random_state=5).fit_transform(X[["shop"]], target)
        cv = folds(5, shuffle=True, random_state=5)
        np.testing.assert_array_equal(ours, PartialPoolingEncoder(cv=cv).fit_transform(X[["shop"]], target))
    plain = PartialPoolingEncoder(shuffle=False).fit_transform(X[["shop"]], y)
    np.testing.assert_array_equal(plain, PartialPoolingEncoder(cv=KFold(5)).fit_transform(X[["shop"]], y))


def test_labels_that_tell_nothing_do_not_leak():
    # y is noise: whoever encodes rows by their own y sees a relation.
    rng = np.random.default_rng(0)
    X, y = rng.integers(0, 300, (900, 1)), rng.normal(size=900)
    encoder = PartialPoolingEncoder(random_state=0)
    assert abs(np.nan_to_num(np.corrcoef(encoder.fit_transform(X, y)[:, 0], y)[0, 1])) < 0.1


def test_folds_must_be_a_partition():
    X, y = shops()
    with pytest.raises(ValueError, match="cv must have every row in one of its test folds"):
        PartialPoolingEncoder(cv=ShuffleSplit(3, random_state=0)).fit_transform(X[["shop"]], y)


def test_groups_are_routed_to_the_splitter():
    X, y = shops()
    cv = GroupKFold(3)
    with config_context(enable_metadata_routing=True):
        encoder = PartialPoolingEncoder(cv=cv)
        found = encoder.fit_transform(X[["shop"]], y, groups=X.town)
        model = make_pipeline(PartialPoolingEncoder("shop", cv=cv), Ridge())
        model.fit(X, y, groups=X.town)
    iterable = list(cv.split(X, y, X.town))
    np.testing.assert_array_equal(found, PartialPoolingEncoder(cv=iterable).fit_transform(X[["shop"]], y))
    # every shop is in one town, so that no fold knows its shops
    assert (
        PartialPoolingEncoder(cv=iterable, unknown_groups="nan", add=("count",)).fit_transform(X[["shop"]], y)[:, 1]
        == 0
    ).all()
    with pytest.raises(ValueError, match="metadata routing"):
        PartialPoolingEncoder().fit_transform(X[["shop"]], y, groups=X.town)


# ---------------------------------------------------------------------------------------------------------------------
# Labels


def test_policies_for_unknown_labels():
    X, y = shops()
    X = X[["shop"]]
    new = pd.DataFrame({"shop": ["s01", "never", None, "neither"]})
    mean = PartialPoolingEncoder().fit(X, y).transform(new)
    assert mean[1] == mean[2] == mean[3] != mean[0]
    hole = PartialPoolingEncoder(unknown_groups="nan", add=("sd", "count")).fit(X, y).transform(new)
    np.testing.assert_array_equal(np.isnan(hole), [[False] * 3] + 3 * [[True, True, False]])
    np.testing.assert_array_equal(hole[1:, 2], 0)
    with pytest.raises(ValueError, match=r"3 groups not seen in fit: 'never', NaN .missing., 'neither'"):
        PartialPoolingEncoder(unknown_groups="error").fit(X, y).transform(new)
    with pytest.warns(LabelMismatchWarning):
        PartialPoolingEncoder().fit(X, y).transform(pd.DataFrame({"shop": ["S01", "S02"]}))


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_a_missing_label_is_a_label_that_fit_has_seen(missing):
    X, y = shops()
    text = X[["shop"]].astype(object)
    named, holes = text.copy(), text.copy()
    named.iloc[::3, 0] = "zzz"  # sorts last
    holes.iloc[::3, 0] = missing
    given, expected = PartialPoolingEncoder(random_state=0), PartialPoolingEncoder(random_state=0)
    np.testing.assert_array_equal(given.fit_transform(holes, y), expected.fit_transform(named, y))
    np.testing.assert_array_equal(given.transform(holes), expected.transform(named))
    assert len(given.encodings_["shop"]) == len(given.groups_["shop"]) + 1


def test_labels_of_every_kind_are_the_same_labels():
    rng = np.random.default_rng(2)
    code, y = rng.integers(0, 9, 80), rng.normal(size=80)
    y += code
    expected = PartialPoolingEncoder(random_state=0).fit_transform(code[:, None], y)
    dates = pd.to_datetime("2020-01-01") + pd.to_timedelta(code, unit="D")
    kinds = {
        "float": code / 8,
        "text": np.array(list("abcdefghi"))[code],
        "categorical": pd.Categorical(np.array(list("abcdefghi"))[code], categories=list("zyxihgfedcba")),
        "category of numbers": pd.Categorical(code),
        "nullable": pd.array(code, dtype="Int64"),
        "string": pd.array(code.astype(str), dtype="string"),
        "dates": dates,
        "tuples": [(int(c), "x") for c in code],
    }
    for kind, labels in kinds.items():
        frame = pd.DataFrame({"g": pd.Series(labels)})
        encoder = PartialPoolingEncoder(random_state=0)
        np.testing.assert_allclose(encoder.fit_transform(frame, y), expected, rtol=1e-12, err_msg=kind)
        np.testing.assert_allclose(
            encoder.transform(frame.iloc[:9]), PartialPoolingEncoder().fit(code[:, None], y).transform(code[:9, None]),
            rtol=1e-12, err_msg=kind,
        )  # fmt: skip


# ---------------------------------------------------------------------------------------------------------------------
# Containers


def test_frames_in_and_out():
    X, y = shops()
    expected = PartialPoolingEncoder("shop", random_state=0).fit_transform(X, y)
    X.index = np.arange(len(X))[::-1]
    X["when"] = pd.Timestamp("2020-01-01")
    frame = PartialPoolingEncoder("shop", random_state=0).set_output(transform="pandas").fit_transform(X, y)
    assert list(frame.columns) == ["shop", "town", "price", "when"]
    pd.testing.assert_frame_equal(frame[["town", "price", "when"]], X[["town", "price", "when"]])
    np.testing.assert_array_equal(frame.iloc[:, :3], expected)
    lazy = pl.DataFrame({name: X[name].to_numpy() for name in ("shop", "town", "price")})
    answer = PartialPoolingEncoder("shop", random_state=0).set_output(transform="polars").fit_transform(lazy, y)
    assert answer.schema == {"shop": pl.Float64, "town": pl.Int64, "price": pl.Float64}
    np.testing.assert_array_equal(answer.to_numpy(), expected)
    with_text = PartialPoolingEncoder("town", random_state=0).fit(X[["shop", "town"]], y).transform(X[["shop", "town"]])
    assert with_text.dtype == object
    assert with_text[0, 1] == X.shop.iloc[0]
    with pytest.raises(TypeError, match="Sparse data"):
        PartialPoolingEncoder().fit(sparse.eye(5).tocsr(), np.arange(5.0))


def test_copies():
    X, y = shops()
    for target in (y, y > 0, np.digitize(y, [0, 1])):
        encoder = PartialPoolingEncoder("shop", add=("sd",), random_state=0).set_output(transform="pandas")
        expected = encoder.fit(X, target).transform(X)
        for other in (pickle.loads(pickle.dumps(encoder)), from_json(to_json(encoder))):
            pd.testing.assert_frame_equal(other.transform(X), expected)
            assert other.get_feature_names_out().tolist() == encoder.get_feature_names_out().tolist()
            assert other.get_params() == encoder.get_params()


def test_before_models():
    X, y = shops()
    for model in (Ridge(), HistGradientBoostingRegressor(max_iter=5)):
        pipeline = make_pipeline(PartialPoolingEncoder(["shop", "town"], add=("count",), random_state=0), model)
        assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.1


# ---------------------------------------------------------------------------------------------------------------------
# Hostile data, and refusals


def test_targets_and_labels_that_tell_nothing():
    X, y = shops()
    X = X[["shop"]]
    for constant in (np.full(len(X), 2.5), np.full(len(X), 3)):
        np.testing.assert_allclose(PartialPoolingEncoder(random_state=0).fit_transform(X, constant), constant[0])
    one = np.zeros((len(y), 1), dtype=int)
    np.testing.assert_allclose(PartialPoolingEncoder().fit(one, y).transform(one), y.mean(), rtol=1e-12)
    alone = np.arange(len(y))[:, None]
    with pytest.warns(ShrinkageWarning, match="no group has two rows"):
        PartialPoolingEncoder().fit(alone, y)
    with pytest.warns(ShrinkageWarning):
        crossed = PartialPoolingEncoder(random_state=0).fit_transform(alone, y)
    assert len(np.unique(crossed.round(9))) == 5  # of each fold the mean of the others


def test_far_numbers():
    X, y = shops()
    near = PartialPoolingEncoder(random_state=0, add=("sd",))
    far = PartialPoolingEncoder(random_state=0, add=("sd",))
    expected = near.fit_transform(X[["shop"]], y)
    np.testing.assert_allclose(far.fit_transform(X[["shop"]], y + 1e8) - [1e8, 0], expected, atol=1e-6)


def test_weights_are_copies():
    X, y = shops(60)
    weight = np.random.default_rng(0).integers(0, 4, len(y))
    for target in (y, y > 0):
        weighted = PartialPoolingEncoder("shop", add=("sd", "count")).fit(X, target, sample_weight=weight)
        repeated = PartialPoolingEncoder("shop", add=("sd", "count"))
        repeated.fit(X.loc[X.index.repeat(weight)], target.repeat(weight))
        np.testing.assert_allclose(weighted.transform(X), repeated.transform(X), rtol=1e-9)


def test_a_failed_fit_leaves_the_former():
    X, y = shops()
    encoder = PartialPoolingEncoder("shop").fit(X, y)
    expected = encoder.transform(X)
    for fails in (encoder.fit, encoder.fit_transform):
        with pytest.raises(ValueError, match="NaN"):
            fails(X[["shop"]], np.where(y > 0, y, np.nan))
    np.testing.assert_array_equal(encoder.transform(X), expected)


@pytest.mark.parametrize(
    ("params", "target", "message"),
    [
        ({"method": "sure"}, "classes", "method='sure' is for numbers"),
        ({"target_type": "binary"}, "many", r"3 classes .* cannot encode"),
        ({"target_type": "multiclass"}, "one", "1 class in"),
        ({}, "two columns", "Unknown label type"),
        ({"add": ("variance",)}, "numbers", "add takes any of"),
        ({"columns": "shop_sd"}, "numbers", "has no column"),
        ({"columns": []}, "numbers", "columns is empty"),
        ({}, "none", "requires y to be passed"),
    ],
)
def test_refusals(params, target, message):
    X, y = shops()
    targets = {
        "classes": y > 0, "many": np.digitize(y, [0, 1]), "one": np.full(len(y), "a"),
        "two columns": np.column_stack([y, y]), "numbers": y, "none": None,
    }  # fmt: skip
    with pytest.raises(ValueError, match=message):
        PartialPoolingEncoder(**params).fit(X, targets[target])


def test_names_that_would_be_there_twice():
    X, y = shops()
    with pytest.raises(ValueError, match="'shop_count'"):
        PartialPoolingEncoder("shop", add=("count",)).fit(X.rename(columns={"price": "shop_count"}), y)


def test_counts_are_not_classes():
    X, _ = shops()
    counts = np.arange(len(X)) % 14
    with pytest.warns(ManyClassesWarning, match="target_type='continuous'"):
        PartialPoolingEncoder().fit(X[["town"]], counts)
    assert PartialPoolingEncoder(target_type="continuous").fit(X[["town"]], counts).target_type_ == "continuous"
