"""Displays: the data they hold, the artists they draw, and labels that can be read."""

from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from scipy import stats
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from hbsk import JamesSteinEstimator, PartialPoolingRegressor
from hbsk.datasets import load_baseball, load_eight_schools, load_radon, make_grouped_regression
from hbsk.plotting import (
    GroupEffectsDisplay,
    GroupSizeDisplay,
    PredictiveCheckDisplay,
    RankDisplay,
    RiskDisplay,
    ShrinkageDisplay,
)
from hbsk.plotting._risk import james_stein_risk, shrunken_risk
from hbsk.predictive_checks import per_group, posterior_predictive_check


@pytest.fixture(autouse=True)
def pyplot():
    """Draw without a screen, and leave no figure open."""
    with mpl.rc_context({"backend": "Agg"}):
        import matplotlib.pyplot as plt

        yield plt
        plt.close("all")


@pytest.fixture(scope="module")
def radon():
    X, y = load_radon(return_X_y=True, as_frame=True)
    X = X[["county", "floor"]]
    return PartialPoolingRegressor(group_features="county", slope_features=["floor"], random_state=0).fit(X, y), X, y


@pytest.fixture(scope="module")
def few():
    """Return seven groups of unequal size, their model and the true means."""
    X, y, truth = make_grouped_regression(
        7, [3, 9, 1, 4, 9, 20, 2], 0, intercept=1.5, as_frame=True, return_parameters=True, random_state=4
    )
    X["group"] = X["group"].map(dict(enumerate("gfedcba")))
    model = PartialPoolingRegressor(group_features="group").fit(X, y)
    return model, X, y, 1.5 + truth.group_effects[::-1, 0]


@pytest.fixture(scope="module")
def means(few):
    _, X, y, _ = few
    return JamesSteinEstimator(group_features="group", method="empirical-bayes").fit(X, y)


@pytest.fixture(scope="module")
def baseball():
    data = load_baseball(as_frame=True)
    return data, JamesSteinEstimator(group_features="player").fit(
        data.data, data.target, standard_error=data.standard_error
    )


def drawn_texts(display):
    """Return the boxes of the texts of a drawn figure, in pixels: labels of the y axis, and all others."""
    figure = display.figure_
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    labels, others = [], []
    for ax in figure.axes:
        if not ax.axison:
            continue
        others += [ax.xaxis.label, ax.yaxis.label, ax.title, *ax.texts]
        # Matplotlib keeps ticks beyond the ends of an axis, and does not draw them.
        for axis, texts in ((ax.yaxis, labels), (ax.xaxis, others)):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
            texts += [text for place, text in ticks if low <= place <= high and text.get_text()]
        if ax.get_legend() is not None:
            others.append(ax.get_legend())
    others += figure.legends
    return (
        [text.get_window_extent(renderer) for text in labels],
        [text.get_window_extent(renderer) for text in others if not hasattr(text, "get_text") or text.get_text()],
        figure.bbox,
    )


def assert_legible(display):
    """Assert that no text is cut, and no label of a group touches the next."""
    labels, others, page = drawn_texts(display)
    for box in [*labels, *others]:
        assert page.x0 - 0.5 <= box.x0
        assert box.x1 <= page.x1 + 0.5
        assert page.y0 - 0.5 <= box.y0
        assert box.y1 <= page.y1 + 0.5
    for one, two in pairwise(labels):
        assert not one.overlaps(two)
    for i, one in enumerate(others):
        assert not any(one.overlaps(two) for two in others[i + 1 :])


# ---------------------------------------------------------------------------------------------------------------------
# All displays of groups


def from_estimator(display, model, **options):
    return display.from_estimator(model, **options)


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


def test_a_james_stein_estimator_has_means_only(means, baseball):
    with pytest.raises(ValueError, match="only means of groups; leave term= out"):
        ShrinkageDisplay.from_estimator(means, term="1|group")
    with pytest.raises(TypeError, match="JamesSteinEstimator has no method rank_groups"):
        RankDisplay.from_estimator(means)


@pytest.mark.filterwarnings("ignore::hbsk.exceptions.NoGroupsWarning")
def test_a_james_stein_estimator_without_groups_is_refused(rng):
    model = JamesSteinEstimator().fit(rng.normal(size=(20, 4)), rng.normal(size=20))
    with pytest.raises(ValueError, match="fitted without groups"):
        GroupSizeDisplay.from_estimator(model)


@pytest.mark.parametrize("display", [ShrinkageDisplay, GroupEffectsDisplay])
@pytest.mark.parametrize("coverage", [0.0, 1.0, 95, None])
def test_coverage_is_checked(display, coverage, few):
    with pytest.raises(ValueError, match="coverage must be a number between 0 and 1"):
        display.from_estimator(few[0], coverage=coverage)


# ---------------------------------------------------------------------------------------------------------------------
# Shrinkage


def test_shrinkage_display_holds_the_table_of_the_model(radon):
    model = radon[0]
    display = ShrinkageDisplay.from_estimator(model, term="floor|county", coverage=0.8)
    table = model.group_effects(coverage=0.8).query("term == 'floor|county'")
    for name, column in {
        "labels": "group", "size": "n", "no_pooling": "no_pooling", "estimate": "mean", "lower": "lower",
        "upper": "upper", "shrinkage": "shrinkage",
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
    apart = (table["lower"] > model.intercept_) | (table["upper"] < model.intercept_)
    assert 5 < apart.sum() < 40
    assert display.apart_.get_xdata().tolist() == table["mean"][apart].tolist()
    assert display.apart_.get_ydata().tolist() == np.flatnonzero(apart).tolist()
    assert display.near_.get_xdata().tolist() == table["mean"][~apart].tolist()
    ends = np.array([segment[:, 0] for segment in display.intervals_.get_segments()])
    np.testing.assert_allclose(ends, table[["lower", "upper"]])
    assert display.line_.get_xdata() == [model.intercept_] * 2


def test_rank_display_holds_the_ranks_of_the_model(radon):
    model = radon[0]
    table = model.rank_groups("floor|county", ascending=True, top=4)
    display = RankDisplay.from_estimator(model, term="floor|county", ascending=True, top=4)
    table = table.loc[display.labels]
    np.testing.assert_array_equal(display.expected_rank, table["expected_rank"])
    np.testing.assert_array_equal(display.rank_sd, table["rank_sd"])
    np.testing.assert_array_equal(display.probability, table["p_top_4"])
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


# ---------------------------------------------------------------------------------------------------------------------
# Risk


def risk_by_quadrature(theta, p, *, positive_part):
    """Integrate the loss itself over y = (y_1, and a chi-square of the p - 1 others), theta along the first axis."""
    nodes, weights = np.polynomial.legendre.leggauss(300)
    first = (theta + 9 * nodes)[:, None]
    kink = np.maximum(p - 2 - first**2, 0.0)
    total = 0.0
    # The positive part has a kink where |y|^2 = p - 2; the density of the others has a root at 0, hence the squares.
    for low, high in ((0.0, np.sqrt(kink)), (np.sqrt(kink), 10.0)):
        root = low + (high - low) * (nodes + 1) / 2
        factor = 1 - (p - 2) / (first**2 + root**2)
        if positive_part:
            factor = np.maximum(factor, 0.0)
        loss = (factor * first - theta) ** 2 + factor**2 * root**2
        density = stats.norm.pdf(first - theta) * stats.chi2.pdf(root**2, p - 1) * 2 * root
        total += np.sum(9 * weights[:, None] * weights * (high - low) / 2 * loss * density)
    return total


@pytest.mark.parametrize(("theta", "p"), [(0.0, 6), (1.7, 6), (4.0, 9)])
def test_risk_is_the_expected_loss(theta, p):
    for positive_part in (False, True):
        (risk,) = james_stein_risk(np.array([theta**2]), p, positive_part=positive_part)
        assert risk == pytest.approx(risk_by_quadrature(theta, p, positive_part=positive_part), abs=1e-5)


def test_risk_at_the_target_and_far_away():
    # At the target the plain estimator has risk 2 whatever the number of groups; far away all agree.
    for p in (3, 10, 500):
        plain, positive = (james_stein_risk(np.array([0.0, 1e7]), p, positive_part=part) for part in (False, True))
        np.testing.assert_allclose(plain, [2.0, p], rtol=1e-3)
        assert positive[0] < plain[0]
        assert positive[1] == pytest.approx(plain[1], rel=1e-9)
    distance = np.linspace(0.0, 60.0, 25)
    plain, positive = (james_stein_risk(distance, 8, positive_part=part) for part in (False, True))
    assert (positive <= plain + 1e-12).all()
    assert (plain < 8).all()
    assert (np.diff(plain) > 0).all()
    np.testing.assert_array_equal(james_stein_risk(distance, 2, positive_part=True), 2.0)


def test_estimated_targets_cost_one_each():
    distance = np.array([0.0, 5.0])
    np.testing.assert_allclose(
        shrunken_risk(distance, 10, 3, positive_part=True), 3 + james_stein_risk(distance, 7, positive_part=True)
    )


def test_risk_display_draws_three_curves():
    display = RiskDisplay.from_n_groups(12, n_target=1, max_distance=30.0)
    assert display.squared_distance[[0, -1]].tolist() == [0.0, 30.0]
    for line, risk in (
        (display.means_, 12.0),
        (display.plain_, display.plain),
        (display.positive_part_, display.positive_part),
    ):
        np.testing.assert_array_equal(line.get_xdata(), display.squared_distance)
        np.testing.assert_array_equal(line.get_ydata(), np.broadcast_to(risk, 101))
    assert display.plain[0] == pytest.approx(3.0)
    assert display.position_ is None
    assert isinstance(display.ax_, Axes)
    assert_legible(display)


@pytest.mark.parametrize(("target", "n_target"), [("mean", 1), ("zero", 0), (0.3, 0)])
def test_risk_display_marks_where_the_data_lie(target, n_target, baseball):
    data, _ = baseball
    model = JamesSteinEstimator(group_features="player", target=target)
    model = model.fit(data.data, data.target, standard_error=data.standard_error)
    display = RiskDisplay.from_estimator(model)
    centre = {"mean": data.target.mean(), "zero": 0.0}.get(target, target)
    position = np.sum((data.target - centre) ** 2 / data.standard_error**2) - (18 - n_target)
    assert (display.n_groups, display.n_target) == (18, n_target)
    assert display.position == pytest.approx(max(position, 0.0))
    assert display.position_.get_xdata() == [display.position] * 2
    assert display.squared_distance[-1] >= display.position
    assert_legible(display)


def test_an_estimate_at_the_target_is_seen_beside_the_axis():
    schools = load_eight_schools(as_frame=True)
    model = JamesSteinEstimator(group_features="school")
    display = RiskDisplay.from_estimator(model.fit(schools.data, schools.target, standard_error=schools.standard_error))
    assert display.position == 0
    assert display.ax_.get_xlim()[0] < 0


def test_risk_display_counts_the_columns_of_a_regression(rng):
    X = pd.DataFrame(rng.normal(size=(9, 2)), columns=["u", "v"]).assign(twice=lambda X: 2 * X["u"], g=range(9))
    model = JamesSteinEstimator(group_features="g", target="regression").fit(X, rng.normal(size=9), standard_error=1.0)
    assert RiskDisplay.from_estimator(model).n_target == 3  # an intercept and two independent columns


def test_risk_display_marks_nothing_where_nothing_was_shrunken(rng):
    model = JamesSteinEstimator()
    with pytest.warns(UserWarning, match="at least 4 groups are needed"):
        model.fit(np.zeros((3, 1)), rng.normal(size=3), groups=[1, 2, 3], standard_error=1.0)
    display = RiskDisplay.from_estimator(model)
    assert display.position is None
    np.testing.assert_array_equal(display.plain, 3.0)


def test_risk_display_refuses_what_it_does_not_describe(means, few):
    with pytest.raises(ValueError, match="this one has method='empirical-bayes' and 7 groups"):
        RiskDisplay.from_estimator(means)
    with pytest.raises(TypeError, match="risk of a JamesSteinEstimator, got PartialPoolingRegressor"):
        RiskDisplay.from_estimator(few[0])
    with pytest.raises(ValueError, match="n_groups must be an integer larger than n_target=2; got 2"):
        RiskDisplay.from_n_groups(2, n_target=2)
    with pytest.raises(ValueError, match=r"n_target must be .* got -1"):
        RiskDisplay.from_n_groups(2, n_target=-1)
    with pytest.raises(ValueError, match="max_distance must be positive, got 0"):
        RiskDisplay.from_n_groups(5, max_distance=0)


# ---------------------------------------------------------------------------------------------------------------------
# Predictive checks


@pytest.fixture(scope="module")
def check(radon):
    model, X, y = radon
    return posterior_predictive_check(model, X, y, n_samples=200, random_state=1)


def test_predictive_check_display_draws_a_histogram_of_each_statistic(check, radon):
    model, X, y = radon
    display = PredictiveCheckDisplay.from_estimator(model, X, y, n_samples=200, random_state=1)
    assert display.names == ["mean", "std", "min", "max"]
    np.testing.assert_array_equal(display.replicated, check.replicated)
    np.testing.assert_array_equal(display.observed, check.observed)
    np.testing.assert_array_equal(display.p_value, check.p_value)
    assert display.axes_.shape == (4,)
    assert display.ax_ is display.axes_[0]
    for i, (ax, histogram, line) in enumerate(zip(display.axes_, display.histograms_, display.lines_, strict=True)):
        assert sum(bar.get_height() for bar in histogram) == 200
        assert line.get_xdata() == [check.observed.iloc[i]] * 2
        assert ax.get_title() == f"{display.names[i]}: $p_B$ = {check.p_value.iloc[i]:.3f}"
    assert_legible(display)


def test_predictive_check_display_takes_the_axes_it_is_given(check, pyplot):
    figure, (_, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    display = PredictiveCheckDisplay.from_check(check, ax=right)
    assert all(ax.figure is figure for ax in display.axes_)
    assert not right.axison
    assert len(figure.axes) == 6
    # The first panel explains the colours; the figure is not ours to put a legend in.
    assert len(display.ax_.get_legend().get_texts()) == 2
    assert figure.legends == []
    figure, axes = pyplot.subplots(2, 2)
    assert PredictiveCheckDisplay.from_check(check, ax=axes).axes_.tolist() == axes.ravel().tolist()
    with pytest.raises(ValueError, match="ax has 3 Axes for 4 statistics"):
        PredictiveCheckDisplay.from_check(check, ax=axes.ravel()[:3])
    with pytest.raises(ValueError, match="is no subplot"):
        PredictiveCheckDisplay.from_check(check, ax=figure.add_axes((0.1, 0.1, 0.5, 0.5)))


def test_predictive_check_display_draws_many_statistics_as_intervals(radon):
    model, X, y = radon
    y = y.copy()
    y[X["county"] == "LAKE"] += 9.0  # not what the model was fitted to
    display = PredictiveCheckDisplay.from_estimator(
        model, X, y, statistics=per_group("mean"), n_samples=300, random_state=1, new_groups=True
    )
    labels = model.groups_["county"].tolist()
    assert [text.get_text() for text in display.ax_.get_yticklabels()] == labels
    assert display.ax_.get_xlabel() == "group_mean"
    ends = np.array([segment[:, 0] for segment in display.intervals_.get_segments()])
    np.testing.assert_allclose(ends, np.quantile(display.replicated, [0.01, 0.99], axis=0).T)
    outside = (display.p_value < 0.01) | (display.p_value > 0.99)
    assert outside[labels.index("LAKE")]
    assert display.extreme_.get_ydata().tolist() == np.flatnonzero(outside).tolist()
    assert display.observed_.get_xdata().tolist() == display.observed[~outside].tolist()
    names = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert names[0] == "98 % of the replicates, new groups"
    assert_legible(display)


def test_kind_of_a_predictive_check_is_checked(check):
    assert len(PredictiveCheckDisplay.from_check(check, kind="interval").axes_) == 1
    with pytest.raises(ValueError, match='kind must be "auto", "histogram" or "interval", got \'lines\''):
        PredictiveCheckDisplay.from_check(check, kind="lines")


def test_whole_numbers_have_a_bar_each(radon):
    model, X, y = radon
    display = PredictiveCheckDisplay.from_estimator(
        model, X, y, statistics={"homes": lambda y: (y > 3.2).sum()}, n_samples=100, random_state=0
    )
    values = np.unique(display.replicated)
    middles = [bar.get_x() + bar.get_width() / 2 for bar in display.histograms_[0] if bar.get_height()]
    np.testing.assert_allclose(middles, values)
