"""Intercepts of groups where the columns are 0, at their means, or where a user says."""

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit

from hbsk import JamesSteinEstimator, PartialPoolingClassifier, PartialPoolingRegressor, from_json, to_json
from hbsk.datasets import load_sleepstudy
from hbsk.plotting import GroupEffectsDisplay, GroupSizeDisplay, RankDisplay, ShrinkageDisplay

RNG = np.random.default_rng(21)
N = 120
X = pd.DataFrame(
    {
        "g": np.repeat(list("abcdefgh"), 15),
        "h": np.tile(["u", "v", "w"], 40),
        "x": 40.0 + 3.0 * RNG.normal(size=N),
        "w": RNG.normal(size=N),
        "kind": RNG.choice(["old", "new", "odd"], N),
    }
)
SLOPE = dict(zip("abcdefgh", RNG.normal(0.6, 0.3, 8), strict=True))
Y = 2.0 + X["g"].map(SLOPE) * X["x"] + X["w"] + 0.5 * (X["kind"] == "odd") + RNG.normal(size=N)
FORMULAS = {
    "slopes": "x + w + kind + (x | g)",
    "no common slope": "w + (x | g)",
    "transformed": "np.log(x) + x:w + (np.log(x) | g)",
    "two factors": "x + w + kind + (x | g) + (1 | h)",
}
POINT = {"x": 41.5, "w": -0.3, "kind": "odd"}


def rows_of(model, factor="g", other="h"):
    """Return a row at the point for each group of a factor, the other one new: of mean effect."""
    rows = pd.DataFrame({factor: model.groups_[factor], **POINT})
    return rows.assign(**{other: "new"})[list(X)]


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_a_group_at_a_point_is_its_row_there(formula):
    model = PartialPoolingRegressor(formula).fit(X, Y)
    at = {name: value for name, value in POINT.items() if name in formula}
    table = model.group_effects(0.8, at=at)
    rows = rows_of(model)
    of_g = table[(table["factor"] == "g") & (table["term"] == "1|g")]
    np.testing.assert_allclose(of_g["mean"], model.predict(rows), rtol=1e-9)
    if "h" not in model.groups_:
        interval = model.predict_interval(rows, coverage=0.8, kind="mean")
        np.testing.assert_allclose(of_g[["eti80_lb", "eti80_ub"]], interval, rtol=1e-9)
        separate = PartialPoolingRegressor(formula, pooling="none").fit(X, Y)
        np.testing.assert_allclose(of_g["no_pooling"], separate.predict(rows), rtol=1e-8)
    zero = model.group_effects(0.8)
    slopes = table["term"].str.startswith(("x", "np"))
    pd.testing.assert_frame_equal(table[slopes], zero[slopes])
    centre = model.predict(rows, include_groups=False)
    np.testing.assert_allclose(of_g["mean"] - of_g["deviation"], centre, rtol=1e-9)


@pytest.mark.parametrize("formula", FORMULAS.values(), ids=FORMULAS)
def test_at_the_mean_is_the_average_over_all_rows_as_if_they_were_the_groups(formula):
    weight = RNG.integers(0, 4, N).astype(float)
    model = PartialPoolingRegressor(formula).fit(X, Y, sample_weight=weight)
    of_g = model.group_effects(at="mean").query("term == '1|g'").set_index("group")
    for group in "ade":
        whole = model.predict(X.assign(g=group, h="new"))
        assert of_g.loc[group, "mean"] == pytest.approx(np.average(whole, weights=weight), rel=1e-9)
    pd.testing.assert_frame_equal(model.group_effects(at={}), model.group_effects(at="mean"))
    # columns that a dict does not name stand at their means
    some = model.group_effects(at={"x": 39.0, "w": 0.1}).query("term == '1|g'").set_index("group")
    assert some.loc["d", "mean"] == pytest.approx(
        np.average(model.predict(X.assign(g="d", h="new", x=39.0, w=0.1)), weights=weight), rel=1e-9
    )


def test_moments_and_ranks_are_those_of_joint_draws():
    model = PartialPoolingRegressor("x + w + (x | g)").fit(X, Y)
    tree = model.to_datatree(draws=5000, random_state=0)["posterior"]
    draws = {name: values.to_numpy().reshape(20_000, -1) for name, values in tree.data_vars.items()}
    for at, (x, w) in {"zero": (0, 0), "mean": (X["x"].mean(), X["w"].mean()), "point": (41.5, -0.3)}.items():
        at = {"x": x, "w": w} if at == "point" else at
        own = draws["1|g"] + x * draws["x|g"]
        level = draws["Intercept"] + x * draws["x"] + w * draws["w"] + own
        table = model.group_effects(at=at).query("term == '1|g'")
        np.testing.assert_allclose(table["mean"], level.mean(axis=0), atol=0.05 * level.std(axis=0).max())
        np.testing.assert_allclose(table["sd"], level.std(axis=0), rtol=0.04)
        np.testing.assert_allclose(table["deviation_sd"], own.std(axis=0), rtol=0.04)
        np.testing.assert_allclose(table["deviation"], own.mean(axis=0), atol=0.05 * own.std(axis=0).max())
        ranks = model.rank_groups(at=at).loc[table["group"], "expected_rank"]
        order = np.argsort(np.argsort(-level, axis=1), axis=1) + 1
        np.testing.assert_allclose(ranks, order.mean(axis=0), atol=0.12)


def test_shrinkage_at_a_point_is_the_share_of_the_prior_variance_that_rows_take_off():
    """sigma and Sigma known: Var(u_j | y, b) = (Z'Z / sigma^2 + Sigma^-1)^-1, sds of 3 and 0.5 independent at x = 0."""
    priors = {"sigma": 1.0, "1|g": ("Normal", {"mu": 0, "sigma": 3.0}), "x|g": ("Normal", {"mu": 0, "sigma": 0.5})}
    priors["centre|g"] = {"x": 0}
    prior, z0 = np.diag([9.0, 0.25]), np.array([1.0, 41.5])
    for more in ("", " + (1 | h)"):
        given = priors | ({"1|h": ("Normal", {"mu": 0, "sigma": 1e-6})} if more else {})
        model = PartialPoolingRegressor("x + (1 | g) + (0 + x | g)" + more, priors=given).fit(X, Y)
        table = model.group_effects(at={"x": 41.5}).query("term == '1|g'").set_index("group")
        for group, part in X.groupby("g"):
            z = np.column_stack([np.ones(len(part)), part["x"]])
            left = np.linalg.inv(z.T @ z + np.linalg.inv(prior))
            expected = 1.0 - (z0 @ left @ z0) / (z0 @ prior @ z0)
            assert table.loc[group, "shrinkage"] == pytest.approx(expected, rel=1e-5)


def test_coefficients_of_groups_are_lme4s():
    """lme4 1.1-31: lmer(Reaction ~ Days + (Days || Subject), sleepstudy), REML; coef() of its first three subjects."""
    days, reaction = load_sleepstudy(return_X_y=True, as_frame=True)
    sds = {"1|Subject": 25.05132832478, "Days|Subject": 5.98818667372}
    priors = {term: ("Normal", {"mu": 0, "sigma": sd}) for term, sd in sds.items()}
    priors |= {"common": ("Flat", {}), "sigma": 25.56527920157, "centre|Subject": {"Days": 0}}
    model = PartialPoolingRegressor("Days + (Days || Subject)", priors=priors).fit(days, reaction)
    intercept = np.array([252.917769617, 211.031232021, 212.224076945])
    slope = np.array([19.79078299949, 1.86811021846, 5.07949153309])
    table = model.group_effects().set_index(["term", "group"])["mean"]
    np.testing.assert_allclose(table.loc["1|Subject"].iloc[:3], intercept, rtol=1e-8)
    np.testing.assert_allclose(table.loc["Days|Subject"].iloc[:3], slope, rtol=1e-7)
    middle = model.group_effects(at="mean").query("term == '1|Subject'")["mean"]
    np.testing.assert_allclose(middle.iloc[:3], intercept + 4.5 * slope, rtol=1e-8)
    assert days["Days"].mean() == 4.5


def test_probabilities_at_a_point_are_predictions():
    label = (Y.mean() < Y).astype(int)
    model = PartialPoolingClassifier("x + w + (x | g)").fit(X, label)
    table = model.group_effects(0.8, at={"x": 41.5, "w": -0.3}, scale="response").query("term == '1|g'")
    rows = rows_of(model)
    np.testing.assert_allclose(table["mean"], model.predict_proba(rows)[:, 1], rtol=1e-3)
    np.testing.assert_allclose(table[["eti80_lb", "eti80_ub"]], model.predict_interval(rows, coverage=0.8), rtol=1e-9)
    link = model.group_effects(at={"x": 41.5, "w": -0.3}).query("term == '1|g'")
    separate = model.group_effects().pivot(index="group", columns="term", values="no_pooling")
    w = model.coef_[model.coef_names_.index("w")]
    expected = separate["1|g"] + 41.5 * separate["x|g"] - 0.3 * w
    np.testing.assert_allclose(link["no_pooling"], expected.to_numpy(), rtol=1e-9, equal_nan=True)
    np.testing.assert_allclose(table["no_pooling"], expit(expected.to_numpy()), rtol=1e-6)


def test_without_pooling_directions_that_rows_do_not_identify_are_missing():
    few = X.copy()
    few.loc[few["g"] == "c", "x"] = 40.0
    none = PartialPoolingRegressor("x + (x | g)", pooling="none").fit(few, Y)
    here, there = (
        none.group_effects(at={"x": x}).query("term == '1|g'").set_index("group").loc["c"] for x in (40.0, 41.0)
    )
    assert here["no_pooling"] == pytest.approx(Y[few["g"] == "c"].mean())
    assert np.isfinite(here["sd"])
    assert np.isnan(there["no_pooling"])
    assert there["sd"] == np.inf
    assert (here["shrinkage"], there["shrinkage"]) == (1.0, 0.0)


def test_documents_and_displays_know_the_point(pyplot):
    model = PartialPoolingRegressor("x + w + (x | g)", random_state=0).fit(X, Y)
    again = from_json(to_json(model))
    pd.testing.assert_frame_equal(again.group_effects(at="mean"), model.group_effects(at="mean"))
    table = model.group_effects(at="mean").query("term == '1|g'")
    for display in (GroupEffectsDisplay, GroupSizeDisplay, ShrinkageDisplay):
        drawn = display.from_estimator(model, at="mean")
        np.testing.assert_array_equal(drawn.estimate, table["mean"])
        assert drawn.term == "level at average features"
        np.testing.assert_allclose(drawn.centre, model.intercept_ + model.coef_ @ X[["x", "w"]].mean())
    ranks = RankDisplay.from_estimator(model, at={"x": 0.0, "w": 0.0})
    np.testing.assert_array_equal(ranks.expected_rank, model.rank_groups().loc[ranks.labels, "expected_rank"])
    assert ranks.term == "level at x = 0.0, w = 0.0"
    means = JamesSteinEstimator(group_features="g").fit(X[["g", "x"]], Y)
    with pytest.raises(ValueError, match="at='mean': a JamesSteinEstimator has means of groups"):
        RankDisplay.from_estimator(means, at="mean")


def test_what_is_no_point_is_refused_by_name():
    model = PartialPoolingRegressor("x:w + kind + (x | g)").fit(X, Y)
    for at, message in {
        "meen": r"at must be 'zero', 'mean' or a dict of columns of X and their values, got 'meen'",
        ("x", 3): r"at must be 'zero', 'mean' or a dict",
    }.items():
        with pytest.raises(ValueError, match=message):
            model.group_effects(at=at)
    for at, message in (
        ({"days": 1.0}, r"at= names 'days', no features of this model; its features are 'x', 'w', 'kind'"),
        ({"g": "a"}, "at= names 'g', no features"),
        ({"x": "a", "w": 0.0}, r"at\['x'\] must be a finite number, got 'a'"),
        ({"x": np.inf, "w": 0.0}, r"at\['x'\] must be a finite number, got inf"),
        ({"x": 1.0}, "at= gives 'x' and not 'w', and the column 'x:w' of the model is made of both. Give all of them"),
        ({"kind": "blue"}, "Column 'kind' holds 'blue', not seen in fit. Known levels: 'new', 'odd', 'old'"),
    ):
        with pytest.raises(ValueError, match=message):
            model.rank_groups(at=at)
    with pytest.raises(ValueError, match=r"'x\|g' is a slope, the same everywhere. Leave at= out"):
        model.rank_groups("x|g", at="mean")
    slopes = PartialPoolingRegressor("x + (0 + x | g)").fit(X, Y)
    with pytest.raises(ValueError, match="where varying intercepts are told, and this model has none"):
        slopes.group_effects(at="mean")
