"""What the tests of displays draw, fitted once and never changed, and whether a drawn figure can be read."""

from functools import cache
from itertools import pairwise

from hbsk import JamesSteinEstimator, PartialPoolingRegressor
from hbsk.datasets import load_baseball, load_radon, make_grouped_regression


@cache
def radon_fit():
    """Return a model of 85 groups, and its rows."""
    X, y = load_radon(return_X_y=True, as_frame=True)
    X = X[["county", "floor"]]
    return PartialPoolingRegressor(group_features="county", slope_features=["floor"], random_state=0).fit(X, y), X, y


@cache
def few_groups_fit():
    """Return a model of seven groups of unequal size, its rows and the true means."""
    X, y, truth = make_grouped_regression(
        7, [3, 9, 1, 4, 9, 20, 2], 0, intercept=1.5, as_frame=True, return_parameters=True, random_state=4
    )
    X["group"] = X["group"].map(dict(enumerate("gfedcba")))
    model = PartialPoolingRegressor(group_features="group").fit(X, y)
    return model, X, y, 1.5 + truth.group_effects[::-1, 0]


@cache
def few_means_fit():
    """Return the means of the same groups, shrunken."""
    _, X, y, _ = few_groups_fit()
    return JamesSteinEstimator(group_features="group", method="empirical-bayes").fit(X, y)


@cache
def baseball_fit():
    """Return the data of 18 players, and their shrunken means."""
    data = load_baseball(as_frame=True)
    model = JamesSteinEstimator(group_features="player")
    return data, model.fit(data.data, data.target, standard_error=data.standard_error)


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
