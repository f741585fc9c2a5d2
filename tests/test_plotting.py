"""Displays of groups: the data they hold, the artists they draw, and labels that can be read."""

from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from hbsk import JamesSteinEstimator, PartialPoolingRegressor
from hbsk.datasets import load_eight_schools
from hbsk.plotting import GroupEffectsDisplay, GroupSizeDisplay, RankDisplay, ShrinkageDisplay
from tests.figures import assert_legible, baseball_fit, drawn_texts, few_groups_fit, few_means_fit, radon_fit

pytestmark = pytest.mark.usefixtures("pyplot")


@pytest.fixture(scope="module")
def radon():
    return radon_fit()


@pytest.fixture(scope="module")
def few():
    return few_groups_fit()


@pytest.fixture(scope="module")
def means():
    return few_means_fit()


@pytest.fixture(scope="module")
def baseball():
    return baseball_fit()


# ---------------------------------------------------------------------------------------------------------------------
# All displays of groups

GROUP_DISPLAYS = [ShrinkageDisplay, GroupSizeDisplay, GroupEffectsDisplay, RankDisplay]


@pytest.mark.parametrize("display", GROUP_DISPLAYS)
def test_displays_hold_data_and_draw_where_they_are_told(display, few, pyplot):
    figure, (left, right) = pyplot.subplots(1, 2)
    drawn = display.from_estimator(few[0], ax=right)
    assert isinstance(drawn, display)
    assert drawn.ax_ is right
    assert drawn.figure_ is figure
    assert not left.has_data()
    again = drawn.plot(left)
    assert again is drawn
    assert drawn.ax_ is left
    assert drawn.labels.tolist() == list("abcdefg")
    for name, value in vars(drawn).items():
        if not name.endswith("_"):
            assert value is None or isinstance(value, np.ndarray | float | int | str), name


@pytest.mark.parametrize("display", GROUP_DISPLAYS)
def test_displays_make_legible_figures_of_85_groups(display, radon):
    drawn = display.from_estimator(radon[0])
    if display is not GroupSizeDisplay:
        assert len(drawn.ax_.get_yticklabels()) == 85
        labels, _, _ = drawn_texts(drawn)
        assert min(label.height for label in labels) * 72 / drawn.figure_.dpi > 6
    assert_legible(drawn)


@pytest.mark.parametrize("display", [ShrinkageDisplay, GroupEffectsDisplay, RankDisplay])
def test_labels_thin_out_where_there_is_no_room(display, radon, pyplot):
    _, ax = pyplot.subplots(figsize=(6, 4), layout="constrained")
    drawn = display.from_estimator(radon[0], ax=ax)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert 20 < len(names) < 85
    labels, _, _ = drawn_texts(drawn)
    assert not any(one.overlaps(two) for one, two in pairwise(labels))
    # What is named stands beside the right group.
    place = int(ax.get_yticks()[3])
    assert names[3].startswith(drawn.labels[drawn.order_[place]])


def test_long_labels_are_cut_in_the_middle(few):
    _, X, y, _ = few
    X = X.assign(group="a group whose name says " + X["group"] + " very long story indeed")
    drawn = GroupEffectsDisplay.from_estimator(PartialPoolingRegressor(group_features="group").fit(X, y))
    assert "a group whose name s…y long story indeed" not in "".join(drawn.labels)
    assert drawn.ax_.get_yticklabels()[0].get_text() == "a group whose name s…y long story indeed"
    assert_legible(drawn)


def test_labels_of_any_kind_are_text(rng):
    X = pd.DataFrame({"a": [1, 1, 2, 2] * 5, "b": ["u", "v"] * 10})
    model = PartialPoolingRegressor("~ 1 + (1 | a:b)").fit(X, rng.normal(size=20))
    names = {text.get_text() for text in GroupEffectsDisplay.from_estimator(model).ax_.get_yticklabels()}
    assert names == {"1:u", "1:v", "2:u", "2:v"}
    model = PartialPoolingRegressor(group_features=0).fit(
        np.repeat([[3.0], [4.0], [5.0]], 4, axis=0), rng.normal(size=12)
    )
    names = {text.get_text() for text in GroupEffectsDisplay.from_estimator(model).ax_.get_yticklabels()}
    assert names == {"3", "4", "5"}


@pytest.mark.parametrize("display", GROUP_DISPLAYS)
def test_pipelines_and_searches_show_their_last_step(display, few):
    model, X, y, _ = few
    pipeline = make_pipeline("passthrough", PartialPoolingRegressor(group_features="group"))
    search = GridSearchCV(pipeline, {"partialpoolingregressor__pooling": ["partial"]}, cv=2).fit(X, y)
    one, two = display.from_estimator(search), display.from_estimator(model)
    for name, value in vars(two).items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            np.testing.assert_allclose(getattr(one, name), value, err_msg=name)


@pytest.mark.parametrize("display", GROUP_DISPLAYS)
def test_what_has_no_groups_is_refused(display, few, rng):
    _, X, y, _ = few
    with pytest.raises(TypeError, match=r"Ridge has no (estimates of groups|method rank_groups)"):
        display.from_estimator(Ridge().fit(np.zeros((4, 1)), np.arange(4.0)))
    complete = PartialPoolingRegressor(group_features="group", pooling="complete").fit(X, y)
    with pytest.raises(ValueError, match="no groups to show"):
        display.from_estimator(complete)
    with pytest.raises(ValueError, match=r"term='x\|group' is no varying term of this model; its terms are '1\|group'"):
        display.from_estimator(few[0], term="x|group")


def test_a_james_stein_estimator_has_means_only_and_their_ranks(means):
    with pytest.raises(ValueError, match="only means of groups; leave term= out"):
        ShrinkageDisplay.from_estimator(means, term="1|group")
    display, table = RankDisplay.from_estimator(means), means.rank_groups()
    np.testing.assert_array_equal(display.expected_rank, table["expected_rank"].loc[list(display.labels)])


@pytest.mark.filterwarnings("ignore::hbsk.exceptions.NoGroupsWarning")
def test_a_james_stein_estimator_without_groups_is_refused(rng):
    model = JamesSteinEstimator().fit(rng.normal(size=(20, 4)), rng.normal(size=20))
    with pytest.raises(ValueError, match="fitted without groups"):
        GroupSizeDisplay.from_estimator(model)


@pytest.mark.parametrize("display", [ShrinkageDisplay, GroupEffectsDisplay])
@pytest.mark.parametrize("coverage", [0.0, 1.0, 95, None])
def test_coverage_is_checked(display, coverage, few):
    with pytest.raises(ValueError, match="coverage must be a fraction between 0 and 1"):
        display.from_estimator(few[0], coverage=coverage)


# ---------------------------------------------------------------------------------------------------------------------
# Shrinkage


def test_shrinkage_display_holds_the_table_of_the_model(radon):
    model = radon[0]
    display = ShrinkageDisplay.from_estimator(model, term="floor|county", coverage=0.8)
    table = model.group_effects(coverage=0.8).query("term == 'floor|county'")
    for name, column in {
        "labels": "group", "size": "n", "no_pooling": "no_pooling", "estimate": "mean", "lower": "eti80_lb",
        "upper": "eti80_ub", "shrinkage": "shrinkage",
    }.items():  # fmt: skip
        np.testing.assert_array_equal(getattr(display, name), table[column], err_msg=name)
    assert display.centre.tolist() == [model.coef_[model.coef_names_.index("floor")]] * 85
    assert (display.factor, display.term) == ("county", "floor")
    # Counties without both floors have no slope of their own.
    assert np.isnan(display.no_pooling).any()


def test_shrinkage_display_draws_estimates(few):
    model = few[0]
    display = ShrinkageDisplay.from_estimator(model)
    order = display.order_
    assert display.size[order].tolist() == [20, 9, 9, 4, 3, 2, 1]
    assert display.labels[order].tolist() == list("bcfdgae")  # equal sizes in the order of the labels
    assert [t.get_text() for t in display.ax_.get_yticklabels()][:2] == ["b (20)", "c (9)"]
    assert display.ax_.yaxis_inverted()
    np.testing.assert_array_equal(display.no_pooling_.get_xdata(), display.no_pooling[order])
    assert display.no_pooling_.get_ydata().tolist() == list(range(7))
    points, _, (bars,) = display.partial_pooling_
    np.testing.assert_array_equal(points.get_xdata(), display.estimate[order])
    ends = np.array([segment[:, 0] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, np.column_stack([display.lower, display.upper])[order])
    assert display.line_.get_xdata() == [model.intercept_] * 2
    moves = np.array([segment[:, 0] for segment in display.moves_.get_segments()])
    np.testing.assert_array_equal(moves, np.column_stack([display.no_pooling, display.estimate])[order])
    assert_legible(display)


def test_shrinkage_display_draws_shrinkage(few, means):
    for model in (few[0], means):
        display = ShrinkageDisplay.from_estimator(model, kind="shrinkage", sort="shrinkage")
        widths = [bar.get_width() for bar in display.bars_]
        assert widths == sorted(display.shrinkage, reverse=True)
        np.testing.assert_allclose(np.add(widths, [bar.get_width() for bar in display.rest_]), 1.0)
        assert display.ax_.get_xlim() == (0.0, 1.0)
        assert_legible(display)


@pytest.mark.parametrize("sort", ["size", "estimate", "shrinkage", "label"])
def test_shrinkage_display_sorts(sort, few):
    display = ShrinkageDisplay.from_estimator(few[0], sort=sort)
    values = getattr(display, {"label": "labels"}.get(sort, sort))[display.order_].tolist()
    assert values == sorted(values, reverse=sort != "label")


def test_intervals_without_pooling_on_request():
    schools = load_eight_schools(as_frame=True)
    fits = [
        PartialPoolingRegressor(group_features="school", pooling=pooling).fit(
            schools.data, schools.target, standard_error=schools.standard_error
        )
        for pooling in ("partial", "none")
    ]
    display = ShrinkageDisplay.from_estimator(fits[0], no_pooling=fits[1], coverage=0.9)
    reach = stats.norm.ppf(0.95) * schools.standard_error
    np.testing.assert_allclose(display.no_pooling_lower, schools.target - reach, atol=1e-6)
    np.testing.assert_allclose(display.no_pooling_upper, schools.target + reach, atol=1e-6)
    _, _, (bars,) = display.no_pooling_
    ends = np.array([segment[:, 0] for segment in bars.get_segments()])
    np.testing.assert_allclose(ends, np.column_stack([schools.target - reach, schools.target + reach]), atol=1e-6)
    assert display.moves_ is None
    names = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert {"no pooling, 90 % interval", "partial pooling, 90 % interval"} < set(names)
    # Equal sizes say nothing and are left out.
    assert display.ax_.get_yticklabels()[0].get_text() == "A"
    assert_legible(display)


def test_means_have_the_intervals_of_their_estimator(means, few):
    display = ShrinkageDisplay.from_estimator(means, coverage=0.7)
    rows = pd.DataFrame({"group": display.labels})
    interval = means.predict_interval(rows, coverage=0.7, kind="mean")
    np.testing.assert_allclose(np.column_stack([display.lower, display.upper]), interval)
    np.testing.assert_array_equal(display.no_pooling, means.group_means_)
    assert display.line_.get_xdata() == [means.target_] * 2
    assert display.ax_.get_xlabel() == "mean by group"


def test_targets_that_differ_are_marked_one_by_one(rng):
    X = pd.DataFrame({"group": np.repeat(list("abcdefgh"), 3), "x": np.repeat(rng.normal(size=8), 3)})
    model = JamesSteinEstimator(group_features="group", target="regression").fit(X, X["x"] + rng.normal(size=24))
    display = ShrinkageDisplay.from_estimator(model, sort="estimate")
    np.testing.assert_allclose(display.line_.get_xdata(), model.target_[display.order_])
    assert display.line_.get_ydata().tolist() == list(range(8))


def test_infinite_intervals_are_not_drawn():
    schools = load_eight_schools(as_frame=True)
    with pytest.warns(UserWarning, match="no group has two rows"):
        model = JamesSteinEstimator(group_features="school").fit(schools.data, schools.target)
    assert np.isinf(ShrinkageDisplay.from_estimator(model).upper).all()
    assert np.isfinite(ShrinkageDisplay.from_estimator(model).ax_.get_xlim()).all()
    assert np.isfinite(GroupEffectsDisplay.from_estimator(model).ax_.get_xlim()).all()


@pytest.mark.parametrize(("name", "value"), [("kind", "both"), ("sort", "name")])
def test_options_of_the_shrinkage_display_are_checked(name, value, few):
    with pytest.raises(ValueError, match=f"{name} must be .* got '{value}'"):
        ShrinkageDisplay.from_estimator(few[0], **{name: value})


def test_styles_are_taken_and_short_names_understood(few):
    display = ShrinkageDisplay.from_estimator(
        few[0], no_pooling_kwargs={"c": "k", "marker": "s"}, partial_pooling_kwargs={"ms": 9}, line_kwargs={"lw": 3}
    )
    assert display.no_pooling_.get_color() == "k"
    assert display.no_pooling_.get_marker() == "s"
    assert display.partial_pooling_[0].get_markersize() == 9
    assert display.line_.get_linewidth() == 3
    bars = ShrinkageDisplay.from_estimator(few[0], kind="shrinkage", bar_kwargs={"fc": "k"}).bars_
    assert bars[0].get_facecolor() == (0, 0, 0, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Sizes, effects, ranks


def test_size_display_draws_estimates_over_sizes(few):
    model, _, _, truth = few
    display = GroupSizeDisplay.from_estimator(model, truth=truth)
    assert display.size.tolist() == [2, 20, 9, 4, 1, 9, 3]
    np.testing.assert_array_equal(display.partial_pooling_.get_ydata(), model.group_effects_["mean"])
    np.testing.assert_array_equal(display.no_pooling_.get_ydata(), model.group_effects_["no_pooling"])
    np.testing.assert_array_equal(display.truth_.get_ydata(), truth)
    x = display.partial_pooling_.get_xdata()
    np.testing.assert_allclose(x, display.size, rtol=0.16)
    assert x[2] != x[5]  # two groups of nine rows
    assert display.ax_.get_xscale() == "log"
    assert display.line_.get_ydata() == [model.intercept_] * 2
    assert [text.get_text() for text in display.ax_.get_xticklabels()] == ["1", "2", "5", "10", "20"]
    assert_legible(display)


@pytest.mark.parametrize("container", [dict, pd.Series])
def test_truth_by_label_finds_its_group(container, few):
    model, _, _, truth = few
    by_label = container(dict(reversed(list(zip("abcdefg", truth, strict=True)))))
    np.testing.assert_array_equal(GroupSizeDisplay.from_estimator(model, truth=by_label).truth, truth)


def test_truth_that_does_not_fit_is_refused(few):
    model, _, _, truth = few
    with pytest.raises(ValueError, match=r"truth must have one number for each of the 7 groups.* shape \(6,\)"):
        GroupSizeDisplay.from_estimator(model, truth=truth[:-1])
    with pytest.raises(ValueError, match=r"truth has no value for 6 of the groups: \['b', 'c'"):
        GroupSizeDisplay.from_estimator(model, truth={"a": 1.0})


def test_sizes_may_all_be_equal(baseball):
    display = GroupSizeDisplay.from_estimator(baseball[1])
    assert display.truth_ is None
    assert display.ax_.get_xlim()[0] < 1 < display.ax_.get_xlim()[1]
    assert_legible(display)


def test_effects_display_sorts_and_tells_who_stands_apart(radon):
    model = radon[0]
    display = GroupEffectsDisplay.from_estimator(model, coverage=0.9)
    table = model.group_effects(coverage=0.9).iloc[:85].sort_values("mean", ascending=False)
    assert [text.get_text() for text in display.ax_.get_yticklabels()] == table["group"].tolist()
    apart = (table["eti90_lb"] > model.intercept_) | (table["eti90_ub"] < model.intercept_)
    assert 5 < apart.sum() < 40
    assert display.apart_.get_xdata().tolist() == table["mean"][apart].tolist()
    assert display.apart_.get_ydata().tolist() == np.flatnonzero(apart).tolist()
    assert display.near_.get_xdata().tolist() == table["mean"][~apart].tolist()
    ends = np.array([segment[:, 0] for segment in display.intervals_.get_segments()])
    np.testing.assert_allclose(ends, table[["eti90_lb", "eti90_ub"]])
    assert display.line_.get_xdata() == [model.intercept_] * 2


def test_rank_display_holds_the_ranks_of_the_model(radon):
    model = radon[0]
    top = model.rank_groups("floor|county", ascending=True, top=4)
    display = RankDisplay.from_estimator(model, term="floor|county", ascending=True, top=4)
    assert display.labels[display.order_[:4]].tolist() == top.index.tolist()
    table = model.rank_groups("floor|county", ascending=True, top=85).loc[display.labels]
    np.testing.assert_array_equal(display.expected_rank, table["expected_rank"])
    np.testing.assert_array_equal(display.rank_sd, table["rank_sd"])
    np.testing.assert_array_equal(display.probability[display.order_[:4]], top["p_top_4"])
    assert display.probability.sum() == pytest.approx(4)
    own = model.group_effects_.query("term == 'floor|county'").set_index("group")["no_pooling"]
    np.testing.assert_array_equal(display.no_pooling_rank, own.rank().loc[display.labels])
    assert RankDisplay.from_estimator(model).top == 1
    np.testing.assert_array_equal(
        RankDisplay.from_estimator(model).probability, model.rank_groups().loc[display.labels, "p_best"]
    )


def test_rank_display_draws_bars_within_the_ranks(few):
    display = RankDisplay.from_estimator(few[0], top=2)
    points, _, (bars,) = display.ranks_
    order = display.order_
    assert (np.diff(points.get_xdata()) >= 0).all()
    ends = np.array([segment[:, 0] for segment in bars.get_segments()])
    assert ends.min() >= 1
    assert ends.max() <= 7
    expected, sd = display.expected_rank[order], display.rank_sd[order]
    np.testing.assert_allclose(ends[:, 0], np.maximum(expected - sd, 1.0))
    np.testing.assert_allclose(ends[:, 1], np.minimum(expected + sd, 7.0))
    assert sorted(display.no_pooling_.get_xdata()) == list(range(1, 8))
    assert display.no_pooling_.get_xdata()[0] == display.no_pooling_rank[order[0]]
    heading, first, *_ = [text.get_text() for text in display.probabilities_]
    assert heading == "P(rank ≤ 2)"
    assert first == f"{display.probability[order[0]]:.0%}"
    assert display.ax_.get_xticks().tolist() == list(range(1, 8))
    assert_legible(display)


# Some groups of many


@pytest.mark.parametrize("display", [GroupEffectsDisplay, ShrinkageDisplay, RankDisplay])
def test_some_groups_are_drawn_as_among_all(display, radon):
    whole = display.from_estimator(radon[0])
    some = [whole.labels[k] for k in (60, 3, 17)]
    part = display.from_estimator(radon[0], groups=pd.Index(some))
    at = [whole.labels.tolist().index(label) for label in sorted(some)]
    assert part.labels.tolist() == sorted(some)
    held = {name for name in vars(whole) if isinstance(getattr(whole, name), np.ndarray)} - {"order_"}
    assert {"expected_rank", "no_pooling_rank", "probability"} <= held if display is RankDisplay else "lower" in held
    for name in held:
        np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[at], err_msg=name)
    assert len(part.ax_.get_yticks()) == 3


def test_ranks_of_some_groups_reach_beyond_their_number(radon):
    last = radon[0].rank_groups().index[-1:]
    drawn = RankDisplay.from_estimator(radon[0], groups=last)
    assert drawn.n_ranked == 85
    assert drawn.ax_.get_xlim()[1] > drawn.expected_rank[0] > 60
    first = RankDisplay.from_estimator(radon[0], groups=radon[0].rank_groups(top=2).index)
    bars = first.ranks_[2][0].get_segments()
    np.testing.assert_allclose([bar[1][0] for bar in bars], (first.expected_rank + first.rank_sd)[first.order_])
    assert first.ax_.get_xlim()[1] < 60


@pytest.mark.parametrize("display", [GroupEffectsDisplay, ShrinkageDisplay, RankDisplay])
@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["AITKIN", "Nowhere"], "groups has labels of 'county' that fit has not seen: 'Nowhere'. Those of groups_ are"),
        ("AITKIN", r"groups='AITKIN': pass a list of labels of the groups to draw, such as rank_groups\(top=20\)"),
        ([], r"groups=\[\]: pass a list of labels"),
        (3, r"groups=3: pass a list of labels"),
    ],
)
def test_groups_that_cannot_be_drawn_are_named(display, groups, message, radon):
    with pytest.raises(ValueError, match=message):
        display.from_estimator(radon[0], groups=groups)
