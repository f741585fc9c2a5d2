"""The forest plot: what it holds and draws, numbers and labels at its sides, and figures of 3 to 60 studies."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hbsk import JamesSteinEstimator, PartialPoolingClassifier, PartialPoolingRegressor
from hbsk.plotting import ForestDisplay
from tests.figures import assert_legible
from tests.test_plotting_labels import LABELS, shown_texts
from tests.test_reference.reference import heterogeneity_data

pytestmark = pytest.mark.usefixtures("pyplot")

TRIALS = [f"trial {chr(ord('m') - j)}" for j in range(13)]  # sorted they stand the other way round


def bcg():
    data = heterogeneity_data("bcg")
    return np.array(data["yi"]), np.array(data["sei"])


@pytest.fixture(scope="module")
def means():
    y, errors = bcg()
    return JamesSteinEstimator(method="empirical-bayes").fit(None, y, groups=TRIALS, standard_error=errors)


@pytest.fixture(scope="module")
def posterior():
    y, errors = bcg()
    return PartialPoolingRegressor().fit(None, y, groups=TRIALS, standard_error=errors)


def texts_by_row(display):
    """Return what stands at the right, by row and from left to right."""
    found = {}
    for text in display.texts_:
        found.setdefault(text.xy[1], []).append(text.get_text())
    return found


def test_it_holds_the_analysis(means):
    y, errors = (values[::-1] for values in bcg())
    drawn, analysis = ForestDisplay.from_estimator(means, coverage=0.9), means.heterogeneity(0.9)
    np.testing.assert_allclose(drawn.no_pooling, y)
    np.testing.assert_allclose(drawn.no_pooling_upper, y + stats.norm.ppf(0.95) * errors)
    weight = 1 / (errors**2 + analysis.tau2)
    np.testing.assert_allclose(drawn.weight, weight / weight.sum())
    np.testing.assert_allclose(drawn.pooled, [analysis.estimate, *analysis.interval])
    np.testing.assert_allclose(drawn.prediction[1:], analysis.prediction_interval)
    np.testing.assert_allclose(drawn.estimate, means.theta_)
    for name, value in vars(drawn).items():
        if not name.endswith("_"):
            assert isinstance(value, np.ndarray | float | str), name


def test_it_draws_what_it_holds(means, pyplot):
    figure, (left, right) = pyplot.subplots(1, 2)
    drawn = ForestDisplay.from_estimator(means, ax=right)
    assert (drawn.ax_, drawn.figure_) == (right, figure)
    assert not left.has_data()
    np.testing.assert_allclose(drawn.squares_.get_offsets()[:, 0], drawn.no_pooling)
    sizes = drawn.squares_.get_sizes()
    assert sizes[drawn.weight.argmax()] / sizes[drawn.weight.argmin()] == pytest.approx(
        drawn.weight.max() / drawn.weight.min()
    )
    np.testing.assert_allclose(np.array(drawn.intervals_.get_segments())[:, 1, 0], drawn.no_pooling_upper)
    np.testing.assert_allclose(drawn.shrunken_.lines[0].get_xdata(), drawn.estimate)
    corners = drawn.diamond_.get_xy()[:4, 0]
    np.testing.assert_allclose(corners[[1, 0, 2]], drawn.pooled)
    np.testing.assert_allclose(drawn.bar_.get_xdata(), drawn.prediction[1:])
    assert drawn.null_.get_xdata()[0] == 0.0
    assert drawn.line_.get_xdata()[0] == drawn.pooled[0]
    assert drawn.plot(left, null=None, shrunken=False) is drawn
    assert drawn.ax_ is left
    assert drawn.null_ is None
    assert drawn.shrunken_ is None


def test_ratios_stand_on_a_logarithmic_axis(means):
    drawn = ForestDisplay.from_estimator(means, transform=np.exp)
    assert drawn.ax_.get_xscale() == "log"
    assert drawn.null_.get_xdata()[0] == 1.0
    np.testing.assert_allclose(drawn.diamond_.get_xy()[[1, 0, 2], 0], np.exp(drawn.pooled))
    np.testing.assert_allclose(drawn.shrunken_.lines[0].get_xdata(), np.exp(drawn.estimate))
    low, high = drawn.ax_.get_xlim()
    assert low < np.exp(drawn.no_pooling_lower.min()) < np.exp(drawn.no_pooling_upper.max()) < high
    rows = texts_by_row(drawn)
    assert rows[13] == ["0.49 [0.34, 0.70]"]
    assert rows[14] == ["[0.15, 1.55]"]
    assert drawn.ax_.get_xlabel() == "exp of the mean by groups"
    falling = ForestDisplay.from_estimator(means, transform=np.negative)
    assert falling.ax_.get_xscale() == "linear"
    assert texts_by_row(falling)[13] == ["0.71 [0.36, 1.07]"]
    np.testing.assert_allclose(falling.bar_.get_xdata(), -falling.prediction[[2, 1]])


def test_rows_stand_in_the_order_that_is_asked_for(means):
    drawn = ForestDisplay.from_estimator(means, order="estimate")
    assert np.all(np.diff(drawn.no_pooling[drawn.order_]) >= 0)
    assert np.all(np.diff(drawn.plot(order="weight").weight[drawn.order_]) <= 0)
    assert drawn.plot().order_.tolist() == list(range(13))
    assert drawn.plot(order=TRIALS).labels[drawn.order_].tolist() == TRIALS
    names = [text.get_text() for text in drawn.ax_.get_yticklabels()]
    assert names == [*TRIALS, "pooled mean", "new group"]
    assert texts_by_row(drawn)[0] == [f"{drawn.weight[drawn.order_[0]]:.1%}".replace("%", " %"), "−0.89 [−2.01, 0.23]"]
    for order, words in (("size", "order must be one of"), (TRIALS[1:], "each of the 13 labels once")):
        with pytest.raises(ValueError, match=words):
            drawn.plot(order=order)


def test_a_posterior_is_drawn_likewise(posterior):
    drawn, analysis = ForestDisplay.from_estimator(posterior, weights=False), posterior.heterogeneity()
    np.testing.assert_allclose(drawn.prediction[1:], analysis.prediction_interval)
    y, errors = (values[::-1] for values in bcg())
    np.testing.assert_allclose(drawn.no_pooling_lower, y - stats.norm.ppf(0.975) * errors)
    tau = posterior.to_datatree(draws=2000, random_state=0)["posterior"]["1|groups_sigma"].to_numpy().ravel()
    weight = 1 / (errors[:, None] ** 2 + tau**2)
    np.testing.assert_allclose(drawn.weight, np.mean(weight / weight.sum(axis=0), axis=1), rtol=0.01)
    assert {len(row) for row in texts_by_row(drawn).values()} == {1}
    y, errors = bcg()
    X = pd.DataFrame({"trial": TRIALS, "x": heterogeneity_data("bcg")["x"]})
    moderated = PartialPoolingRegressor(group_features="trial").fit(X, y, standard_error=errors)
    with pytest.raises(ValueError, match="other columns beside the groups: 'x'"):
        ForestDisplay.from_estimator(moderated)


def test_where_no_mean_is_estimated_there_is_no_diamond():
    y, errors = bcg()
    latitude = np.array(heterogeneity_data("bcg")["x"])[:, None]
    regression = JamesSteinEstimator(target="regression").fit(latitude, y, groups=TRIALS, standard_error=errors)
    drawn = ForestDisplay.from_estimator(regression)
    assert drawn.diamond_ is drawn.bar_ is drawn.pooled is None
    np.testing.assert_allclose(drawn.line_.get_xdata(), regression.target_)
    given = JamesSteinEstimator(target="zero").fit(None, y, groups=TRIALS, standard_error=errors)
    drawn = ForestDisplay.from_estimator(given)
    assert drawn.weight is None
    assert drawn.diamond_ is None
    with pytest.raises(ValueError, match="order='weight' needs weights"):
        drawn.plot(order="weight")


def test_what_has_no_analysis_is_refused():
    y, groups = np.random.default_rng(0).normal(size=40), np.arange(40) % 4
    with pytest.raises(ValueError, match="standard errors of y are not known"):
        ForestDisplay.from_estimator(PartialPoolingRegressor().fit(None, y, groups=groups))
    with pytest.raises(TypeError, match="PartialPoolingClassifier has no method heterogeneity"):
        ForestDisplay.from_estimator(PartialPoolingClassifier().fit(None, y > 0, groups=groups))


@pytest.mark.parametrize("n_groups", [3, 13, 60])
@pytest.mark.filterwarnings("ignore::hbsk.exceptions.ShrinkageWarning")
def test_figures_can_be_read(n_groups):
    rng = np.random.default_rng(n_groups)
    errors = np.exp(rng.normal(-1, 0.7, n_groups))
    names = [f"Author {j} and a very long list of coauthors ({1950 + j})" for j in range(n_groups)]
    model = JamesSteinEstimator().fit(None, rng.normal(size=n_groups) * errors, groups=names, standard_error=errors)
    assert_legible(ForestDisplay.from_estimator(model, transform=np.exp))


def test_labels_thin_out_and_the_pooled_mean_stays(pyplot):
    rng = np.random.default_rng(1)
    model = JamesSteinEstimator().fit(None, rng.normal(size=80), groups=np.arange(80), standard_error=0.5)
    _, ax = pyplot.subplots(figsize=(7, 4), layout="constrained")
    drawn = ForestDisplay.from_estimator(model, ax=ax)
    names = [text.get_text() for text in ax.get_yticklabels()]
    assert 10 < len(names) < 60
    assert names[-2:] == ["pooled mean", "new group"]
    assert len(texts_by_row(drawn)) == len(names) + 1


def test_labels_are_shown_as_they_are():
    X = pd.DataFrame({"price $\\frac{ $": np.array(LABELS, dtype=object)})
    y = np.arange(len(LABELS)) * 1.0
    model = JamesSteinEstimator(group_features=0).fit(X, y, standard_error=1.0)
    texts = shown_texts(ForestDisplay.from_estimator(model))
    assert set(LABELS) <= set(texts)
    assert {"new price $\\frac{ $", "price $\\frac{ $", "mean by price $\\frac{ $"} <= set(texts)
