"""K folds from one pass: the scores are those of refits on the rows."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal
from sklearn.base import clone
from sklearn.metrics import r2_score, root_mean_squared_error

from hbsk import JamesSteinEstimator, PartialPoolingRegressor
from hbsk.model_selection import cross_validate_sums, loo
from hbsk.model_selection._cross_validate_sums import deal_groups
from tests.test_sufficient_statistics import KINDS, make_rows

MODEL = PartialPoolingRegressor("y ~ x + kind + (x | g)")


def by_refits(model, rows, folds):
    """R^2 and RMSE of every fold from fits of the rows of the others; rows count by their weight in the likelihood."""
    X, y, beside = rows
    found = {}
    for fold in np.unique(folds):
        out = folds == fold
        given = {name: values[~out] for name, values in beside.items()}
        mean = clone(model).fit(X[~out], y[~out], **given).predict(X[out])
        weight = beside.get("sample_weight", np.ones(len(y))) / beside.get("standard_error", np.ones(len(y))) ** 2
        found[fold] = (
            r2_score(y[out], mean, sample_weight=weight[out]),
            root_mean_squared_error(y[out], mean, sample_weight=weight[out]),
        )
    return pd.DataFrame.from_dict(found, orient="index", columns=["r2", "rmse"]).rename_axis("fold")


def some_rows(rng, kind="plain"):
    return make_rows(rng, kind, n_rows=160, n_groups=13)


@pytest.mark.parametrize("kind", KINDS)
def test_scores_of_rows_are_those_of_refits(rng, kind):
    X, y, beside = some_rows(rng, kind)
    folds = rng.integers(0, 3, len(y)) + 5
    found = cross_validate_sums(MODEL, X, y, fold=folds, **beside)
    pd.testing.assert_frame_equal(found[["r2", "rmse"]], by_refits(MODEL, (X, y, beside), folds), rtol=1e-10)
    assert found["n_rows"].tolist() == np.bincount(folds)[5:].tolist()
    assert found.columns.tolist() == ["n_rows", "r2", "rmse"]


def test_folds_in_a_column_are_no_feature(rng):
    X, y, _ = some_rows(rng)
    by_column = PartialPoolingRegressor(group_features="g")
    folds = np.array(["p", "q"])[np.arange(len(y)) % 2]
    found = cross_validate_sums(by_column, X.assign(fold=folds), y, fold="fold")
    pd.testing.assert_frame_equal(found, cross_validate_sums(by_column, X, y, fold=folds))
    assert found.index.tolist() == ["p", "q"]
    weight = np.where(np.arange(len(y)) % 5 == 0, 0.0, 1.0)
    kept = weight > 0
    pd.testing.assert_frame_equal(
        cross_validate_sums(by_column, X, y, fold=folds, sample_weight=weight),
        cross_validate_sums(by_column, X[kept], y[kept], fold=folds[kept]),
        rtol=1e-10,
    )


@pytest.mark.parametrize("formula", ["y ~ 0 + x + (0 + x | g)", "y ~ 0 + x + (1 | g)", "y ~ x"])
def test_models_without_intercepts_or_groups(rng, formula):
    X, y, beside = make_rows(rng, "error", n_rows=90, n_groups=7, shift=0)
    model = PartialPoolingRegressor(formula, pooling="partial" if "|" in formula else "complete")
    folds = np.arange(90) % 3
    for given in ({}, beside):
        found = cross_validate_sums(model, X, y, fold=folds, **given)[["r2", "rmse"]]
        wanted = by_refits(model, (X, y, given), folds)
        if given and "(0 + x" in formula:  # no column tells the sum of the weights
            assert found.isna().all(axis=None)
        else:
            pd.testing.assert_frame_equal(found, wanted, rtol=1e-9)


@pytest.mark.parametrize("pooling", ["partial", "complete"])
def test_scores_of_groups_are_those_of_refits_without_them(rng, pooling):
    X, y, beside = some_rows(rng, "weight")
    model = clone(MODEL).set_params(pooling=pooling)
    found = cross_validate_sums(model, X, y, unit="group", n_folds=3, **beside)
    labels, codes = np.unique(X["g"], return_inverse=True)
    folds = deal_groups(np.bincount(codes), 3)[codes]
    assert len(np.unique(folds)) == 3 < len(labels)
    wanted = by_refits(model, (X, y, beside), folds)
    pd.testing.assert_frame_equal(found[["r2", "rmse"]], wanted, rtol=1e-10)


@pytest.mark.parametrize("kind", ["plain", "error"])
def test_the_joint_density_of_groups_is_that_of_dense_normals(rng, kind):
    X, y, beside = make_rows(rng, kind, n_rows=50, n_groups=9)
    priors = {"x|g": ("Normal", {"mu": 0.3, "sigma": ("HalfNormal", {"sigma": 1})})}
    model = PartialPoolingRegressor("y ~ x + (x | g)", priors=priors)
    found = cross_validate_sums(model, X, y, unit="group", n_folds=2, **beside)
    codes = np.unique(X["g"], return_inverse=True)[1]
    folds = deal_groups(np.bincount(codes), 2)[codes]
    out = folds == 1
    learnt = clone(model).fit(X[~out], y[~out], **{name: v[~out] for name, v in beside.items()})._learnt
    posterior, scaling, prior = learnt.fitted.posterior, learnt.fitted.scaling, learnt.fitted.model
    both = np.column_stack([np.ones(len(y)), X["x"]])
    columns, varying = scaling.common(both, True), scaling.varying(both)
    response = (y - both @ learnt.fitted.effect_mean - scaling.y_centre) / scaling.y_scale
    noise = beside.get("standard_error", np.full(len(y), scaling.y_scale)) / scaling.y_scale
    same = codes[:, None] == codes
    total = 0.0
    for weight, sigma, factor in zip(posterior.weight, posterior.sigma, posterior.factor, strict=True):
        effects = sigma**2 * (varying @ factor @ factor.T @ varying.T) * same
        covariance = effects + columns @ np.diag(1 / prior.prior_precision) @ columns.T + np.diag(sigma**2 * noise**2)
        mean = columns @ prior.prior_mean
        whole = multivariate_normal(mean, covariance).logpdf(response)
        seen = multivariate_normal(mean[~out], covariance[np.ix_(~out, ~out)]).logpdf(response[~out])
        total += weight * np.exp(whole - seen)
    np.testing.assert_allclose(found["log_density"][1], np.log(total) - out.sum() * np.log(scaling.y_scale), rtol=1e-8)


def test_groups_that_are_folds_have_the_density_that_loo_finds(rng):
    X, y, _ = make_rows(rng, n_rows=80, n_groups=8, shift=0)
    X = X[["g", "x"]]
    model = PartialPoolingRegressor(group_features="g").fit(X, y)
    fixed = PartialPoolingRegressor(group_features="g", priors=model.priors_)
    found = cross_validate_sums(fixed, X, y, unit="group", n_folds=X["g"].nunique())
    wanted = loo(fixed.fit(X, y), X, y, unit="group")
    np.testing.assert_allclose(found["log_density"].sum(), wanted.elpd, atol=0.1)


@pytest.mark.parametrize("unit", ["row", "group"])
def test_lazy_frames_have_the_scores_of_rows_in_memory(rng, unit):
    polars = pytest.importorskip("polars")
    X, y, beside = some_rows(rng, "both")
    rows = X.assign(y=y, fold=np.arange(len(y)) % 3, kind=X["kind"].astype(str), **beside)
    lazy = polars.LazyFrame({name: rows[name].to_numpy() for name in rows})
    folds = {"fold": "fold"} if unit == "row" else {"n_folds": 3}
    names = {name: name for name in beside}
    found = cross_validate_sums(MODEL, lazy, "y", unit=unit, **folds, **names)
    folds = {"fold": rows["fold"]} if unit == "row" else folds
    wanted = cross_validate_sums(MODEL, X.assign(kind=X["kind"].astype(str)), y, unit=unit, **folds, **beside)
    pd.testing.assert_frame_equal(found, wanted, rtol=1e-9)


def test_more_sums_than_memory_holds_are_not_asked_for(rng, monkeypatch):
    polars = pytest.importorskip("polars")
    X, y, _ = some_rows(rng)
    lazy = polars.LazyFrame({"g": X["g"].to_numpy(), "x": X["x"].to_numpy(), "y": y, "fold": np.arange(len(y))})
    monkeypatch.setattr("hbsk._fit.lazy_sums.MOST_NUMBERS", 400)
    with pytest.raises(ValueError, match="160 sums of groups and folds would come back"):
        cross_validate_sums(PartialPoolingRegressor("y ~ x + (1 | g)"), lazy, fold="fold")


def test_groups_that_others_have_not_seen_follow_the_policy(rng):
    X, y, _ = some_rows(rng)
    folds = np.where(X["g"] == X["g"][0], 0, 1 + np.arange(len(y)) % 2)
    population = cross_validate_sums(MODEL, X, y, fold=folds)
    missing = cross_validate_sums(clone(MODEL).set_params(unknown_groups="nan"), X, y, fold=folds)
    assert np.isnan(missing["r2"][0])
    pd.testing.assert_frame_equal(missing.loc[1:], population.loc[1:])
    with pytest.raises(ValueError, match="1 group not seen in fit"):
        cross_validate_sums(clone(MODEL).set_params(unknown_groups="error"), X, y, fold=folds)


def test_groups_are_dealt_to_folds_of_equal_size():
    counts = np.array([3, 90, 7, 30, 30, 20, 10, 1, 1])
    folds = deal_groups(counts, 3)
    sizes = np.bincount(folds, counts)
    assert sizes.tolist() == [90, 51, 51]
    np.testing.assert_array_equal(deal_groups(np.ones(6), 6)[::-1].argsort(), np.arange(6)[::-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fold": None}, r"unit='row' needs fold=.* such as id % 10"),
        ({"unit": "groups"}, "unit must be 'row' or 'group', got 'groups'"),
        ({"unit": "group"}, "unit='group' deals groups to n_folds="),
        ({"unit": "group", "fold": None, "n_folds": 1}, "n_folds must be an integer from 2 to the number of groups"),
        ({"fold": np.zeros(160)}, "needs at least 2 folds"),
        ({"fold": np.zeros(3)}, "fold of each of the 160 rows"),
        ({"fold": np.full(160, np.nan)}, "fold is missing in 160 rows"),
        ({"fold": "nowhere"}, "fold='nowhere' is no column of X"),
        ({"estimator": clone(MODEL).set_params(pooling="none")}, "takes pooling='partial' or 'complete'"),
        ({"estimator": PartialPoolingRegressor(group_features=["g", "kind"])}, "one grouping factor"),
        ({"estimator": JamesSteinEstimator()}, "takes a PartialPoolingRegressor"),
    ],
)
def test_what_cannot_be_cross_validated_is_told(rng, change, message):
    X, y, _ = some_rows(rng)
    given = {"estimator": MODEL, "fold": np.arange(160) % 2, **change}
    with pytest.raises((ValueError, TypeError), match=message):
        cross_validate_sums(given.pop("estimator"), X, y, **given)
