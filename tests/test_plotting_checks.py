"""The display of posterior predictive checks."""

import numpy as np
import pytest

from hbsk.plotting import PredictiveCheckDisplay
from hbsk.predictive_checks import per_group, posterior_predictive_check
from tests.figures import assert_legible, radon_fit

pytestmark = pytest.mark.usefixtures("pyplot")


@pytest.fixture(scope="module")
def radon():
    return radon_fit()


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


def test_axes_that_are_no_subplot_hold_one_statistic_but_are_not_divided(check, radon, pyplot):
    model, X, y = radon
    ax = pyplot.figure().add_axes((0.1, 0.1, 0.5, 0.5))
    with pytest.raises(ValueError, match="ax is no subplot, so it cannot be divided among 4 statistics; pass 4 Axes"):
        PredictiveCheckDisplay.from_check(check, ax=ax)
    assert ax.axison  # it is left as it was
    display = PredictiveCheckDisplay.from_estimator(model, X, y, statistics="mean", n_samples=50, ax=ax)
    assert display.axes_.tolist() == [ax]
    assert sum(bar.get_height() for bar in display.histograms_[0]) == 50


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
