"""Labels and names of the user in figures are shown as they are: no mathtext, no TeX.

What is shown is read from a drawn SVG, in which text stays text.
"""

import io
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

from hbsk import (
    JamesSteinEstimator,
    PartialPoolingClassifier,
    PartialPoolingCountRegressor,
    PartialPoolingRegressor,
)
from hbsk.plotting import (
    GroupEffectsDisplay,
    GroupSizeDisplay,
    PredictiveCheckDisplay,
    RankDisplay,
    RiskDisplay,
    ShrinkageDisplay,
)
from hbsk.predictive_checks import per_group, posterior_predictive_check

pytestmark = pytest.mark.usefixtures("pyplot")

LABELS = ["$5-$10", "$\\frac$", "\\$5 $x", "a_b^c", "100 %", "{x} \\alpha", "$$", "#1 & ~2", "${", "$x^2$"]
FACTOR, SLOPE = "price $\\frac{ $", "$\\beta$_%"
GROUP_DISPLAYS = [ShrinkageDisplay, GroupSizeDisplay, GroupEffectsDisplay, RankDisplay]


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(5)
    codes = np.repeat(np.arange(len(LABELS)), np.arange(2, 2 + len(LABELS)))
    X = pd.DataFrame({FACTOR: np.array(LABELS, dtype=object)[codes], SLOPE: rng.normal(size=len(codes))})
    return X, rng.normal(size=len(codes)) + codes


@pytest.fixture(scope="module")
def model(data):
    return PartialPoolingRegressor(group_features=FACTOR, slope_features=[SLOPE]).fit(*data)


def shown_texts(display):
    """Return the texts of a figure as a reader sees them, from left to right."""
    with mpl.rc_context({"svg.fonttype": "none"}):
        page = io.StringIO()
        display.figure_.savefig(page, format="svg")
    root = ElementTree.fromstring(page.getvalue())
    return ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]


@pytest.mark.parametrize("display", GROUP_DISPLAYS)
@pytest.mark.parametrize("term", [None, "slope"])
def test_displays_show_labels_and_names_as_they_are(display, term, model):
    term = None if term is None else model.group_effects_["term"].unique()[1]
    drawn = display.from_estimator(model, term=term)
    texts = shown_texts(drawn)
    if display is ShrinkageDisplay:
        wanted = [f"{label} ({n})" for n, label in enumerate(LABELS, start=2)]
    else:
        wanted = [] if display is GroupSizeDisplay else LABELS
    assert set(wanted) <= set(texts)
    what = "intercept" if term is None else SLOPE
    sentence = {
        ShrinkageDisplay: f"{what} by {FACTOR}",
        GroupSizeDisplay: f"{what} by {FACTOR}",
        GroupEffectsDisplay: f"{what} by {FACTOR}",
        RankDisplay: f"rank of the {FACTOR}'s {what}",
    }[display]
    assert sentence in texts
    name = {ShrinkageDisplay: f"{FACTOR} (rows)", GroupSizeDisplay: f"rows in each {FACTOR}"}.get(display, FACTOR)
    assert name in texts


def test_weights_of_groups_and_shrunken_means_show_labels_as_they_are(data):
    X, y = data
    means = JamesSteinEstimator(group_features=FACTOR, method="empirical-bayes").fit(X[[FACTOR]], y)
    texts = shown_texts(ShrinkageDisplay.from_estimator(means, kind="shrinkage"))
    assert f"weight in the mean of each {FACTOR}" in texts
    assert {f"{label} ({n})" for n, label in enumerate(LABELS, start=2)} <= set(texts)
    plain = JamesSteinEstimator(group_features=FACTOR).fit(X[[FACTOR]], y)
    assert shown_texts(RiskDisplay.from_estimator(plain))


@pytest.mark.parametrize("kind", ["histogram", "interval"])
def test_predictive_checks_show_names_of_statistics_as_they_are(kind, data, model):
    X, y = data
    mean_of_groups = {f"{FACTOR} of": per_group("mean")}
    check = posterior_predictive_check(model, X, y, statistics=mean_of_groups, n_samples=20, random_state=0)
    texts = shown_texts(PredictiveCheckDisplay.from_check(check, kind=kind))
    if kind == "interval":
        assert set(LABELS) <= set(texts)
        assert f"{FACTOR} of" in texts
    else:
        # p_B stands in italics of our own: the drawing sets glyphs one by one, not from left to right
        for label in LABELS:
            name = f"{FACTOR} of[{label}]"
            wanted = f"{name}: pB = {check.p_value[name]:.3f}"
            assert any(sorted("".join(wanted.split())) == sorted("".join(text.split())) for text in texts)


def test_names_of_the_centre_are_shown_as_they_are():
    numbers = np.array([1.0, 2.0, 4.0])
    for centre in (np.zeros(3), numbers):
        drawn = GroupEffectsDisplay(
            labels=np.array(["a", "b", "c"], dtype=object),
            estimate=numbers,
            lower=numbers - 1,
            upper=numbers + 1,
            centre=centre,
            centre_name="$5 to $\\frac",
        ).plot()
        assert any(text.startswith("$5 to $\\frac") for text in shown_texts(drawn))


def test_texts_are_no_tex_where_the_rest_of_a_figure_is(model, data, monkeypatch):
    monkeypatch.setitem(mpl.rcParams, "text.usetex", True)
    check = posterior_predictive_check(model, *data, n_samples=20, random_state=0)
    drawn = [display.from_estimator(model) for display in GROUP_DISPLAYS]
    drawn += [PredictiveCheckDisplay.from_check(check, kind=kind) for kind in ("histogram", "interval")]
    for display in drawn:
        for ax in display.figure_.axes:
            legend = ax.get_legend()
            texts = [
                ax.title,
                ax.xaxis.label,
                ax.yaxis.label,
                *ax.texts,
                *([] if legend is None else legend.get_texts()),
            ]
            if not isinstance(display, GroupSizeDisplay):
                texts += ax.get_yticklabels()
            for text in texts:
                assert not (text.get_usetex() and set(text.get_text()) & set("%#&_^{}~")), text


def test_binary_and_count_models_name_their_units():
    rng = np.random.default_rng(3)
    X = pd.DataFrame({"x": rng.normal(size=40), "g": np.arange(40) % 6})
    exposure = rng.uniform(1, 9, 40)
    counts = PartialPoolingCountRegressor(group_features="g").fit(X, rng.poisson(exposure), exposure=exposure)
    assert GroupSizeDisplay.from_estimator(counts).ax_.get_xlabel() == "exposure in each g"
    ax = ShrinkageDisplay.from_estimator(counts).ax_
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("log rate at features of 0 by g", "g (exposure)")
    classes = PartialPoolingClassifier(group_features="g").fit(X, exposure > 5)
    ax = ShrinkageDisplay.from_estimator(classes, at="mean").ax_
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("log odds at average features by g", "g (rows)")
    shares = JamesSteinEstimator(group_features="g", method="beta-binomial")
    shares.fit(X[["g"]], np.full(40, 2), trials=np.arange(3, 43))
    assert GroupSizeDisplay.from_estimator(shares).ax_.get_xlabel() == "trials in each g"
