"""The display of the risk of James-Stein estimators, and the risk itself."""

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from scipy import stats

from hbsk import JamesSteinEstimator
from hbsk.datasets import load_eight_schools
from hbsk.plotting import RiskDisplay
from hbsk.plotting._risk import james_stein_risk, shrunken_risk
from tests.figures import assert_legible, baseball_fit, few_groups_fit, few_means_fit

pytestmark = pytest.mark.usefixtures("pyplot")


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
def test_risk_display_marks_where_the_data_lie(target, n_target):
    data, _ = baseball_fit()
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
    X = pd.DataFrame(rng.normal(size=(9, 2)), columns=["u", "v"]).assign(c=1.0, g=range(9))
    model = JamesSteinEstimator(group_features="g", target="regression").fit(X, rng.normal(size=9), standard_error=1.0)
    assert RiskDisplay.from_estimator(model).n_target == 3  # an intercept and two independent columns


def test_risk_display_marks_nothing_where_nothing_was_shrunken(rng):
    model = JamesSteinEstimator()
    with pytest.warns(UserWarning, match="at least 4 groups are needed"):
        model.fit(np.zeros((3, 1)), rng.normal(size=3), groups=[1, 2, 3], standard_error=1.0)
    display = RiskDisplay.from_estimator(model)
    assert display.position is None
    np.testing.assert_array_equal(display.plain, 3.0)


def test_risk_display_refuses_what_it_does_not_describe():
    with pytest.raises(ValueError, match="this one has method='empirical-bayes' and 7 groups"):
        RiskDisplay.from_estimator(few_means_fit())
    with pytest.raises(TypeError, match="risk of a JamesSteinEstimator, got PartialPoolingRegressor"):
        RiskDisplay.from_estimator(few_groups_fit()[0])
    with pytest.raises(ValueError, match="n_groups must be an integer larger than n_target=2; got 2"):
        RiskDisplay.from_n_groups(2, n_target=2)
    with pytest.raises(ValueError, match=r"n_target must be .* got -1"):
        RiskDisplay.from_n_groups(2, n_target=-1)
    with pytest.raises(ValueError, match="max_distance must be positive, got 0"):
        RiskDisplay.from_n_groups(5, max_distance=0)
