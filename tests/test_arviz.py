"""ArviZ takes what `to_datatree` returns, of both engines: summary, plots, LOO."""

import copy
import warnings

import matplotlib
import numpy as np
import pytest

from hbsk import PartialPoolingRegressor
from hbsk.datasets import load_eight_schools, load_sleepstudy
from hbsk.exceptions import ConvergenceWarning

matplotlib.use("agg")
az = pytest.importorskip("arviz")

SLEEP = {"group_features": "Subject", "random_state": 0, "draws": 300}
SAMPLED = {"inference": "nuts", "chains": 2, "draws": 250, "tune": 400}
MODELS = {
    "intercepts": SLEEP,
    "slopes": SLEEP | {"slope_features": ["Days"]},
    "uncorrelated": SLEEP | {"slope_features": ["Days"], "correlated": False},
    "no pooling": SLEEP | {"slope_features": ["Days"], "pooling": "none"},
    "complete pooling": SLEEP | {"pooling": "complete"},
    "schools": {"group_features": "school", "random_state": 0, "draws": 300},
    "schools by NUTS": {"group_features": "school", "random_state": 0} | SAMPLED,
    "crossed by NUTS": None,
}
VARIANCES = {
    "intercepts": {"sigma", "1|Subject_sigma", "variance_share"},
    "slopes": {"sigma", "1|Subject_sigma", "Days|Subject_sigma", "corr_Subject", "variance_share"},
    # independent at the mean of Days, so correlated at zero
    "uncorrelated": {"sigma", "1|Subject_sigma", "Days|Subject_sigma", "corr_Subject", "variance_share"},
    "no pooling": {"sigma"},
    "complete pooling": {"sigma"},
    "schools": {"1|school_sigma"},
    "schools by NUTS": {"1|school_sigma"},
    "crossed by NUTS": {"sigma", "1|pupil_sigma", "x|pupil_sigma", "corr_pupil", "1|topic_sigma", "variance_share"},
}


@pytest.fixture(scope="module", params=MODELS)
def fitted(request):
    """Return name, model and tree; never changed by a test."""
    if request.param == "crossed by NUTS":
        model, X, y = request.getfixturevalue("crossed")
        return request.param, model, model.to_datatree(X, y)
    if "school" in request.param:
        schools = load_eight_schools(as_frame=True)
        X, y, known = schools.data, schools.target, {"standard_error": schools.standard_error}
    else:
        (X, y), known = load_sleepstudy(return_X_y=True, as_frame=True), {}
    model = PartialPoolingRegressor(**MODELS[request.param])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # short chains
        model.fit(X, y, **known)
    return request.param, model, model.to_datatree(X, y, **known)


def test_summary_agrees_with_ours(fitted):
    name, model, tree = fitted
    with warnings.catch_warnings():
        # R-hat of what is constant: the diagonal of a correlation matrix, and the mean of groups without pooling
        warnings.filterwarnings("ignore", "invalid value encountered in scalar divide", RuntimeWarning)
        full = az.summary(tree, round_to="none")
    variables = set(tree["posterior"].data_vars)
    assert variables >= VARIANCES[name]
    assert not any(
        term.endswith("_sigma") or term.startswith(("corr_", "variance")) for term in variables - VARIANCES[name]
    )
    ours = model.summary()
    assert set(ours.index) <= set(full.index)
    assert ("corr_Subject[1, Days]" in ours.index) == ("corr_Subject" in variables)
    for parameter in ours.index.intersection(full.index):
        error = 6 * full.loc[parameter, "mcse_mean"] + 1e-12
        assert full.loc[parameter, "mean"] == pytest.approx(ours.loc[parameter, "mean"], abs=error)


# Of the other models the variables are among those of these.
PLOTTED = ("slopes", "no pooling", "schools by NUTS", "crossed by NUTS")


@pytest.mark.parametrize("plot", ["plot_forest", "plot_trace_dist"])
@pytest.mark.parametrize("fitted", PLOTTED, indirect=True)
def test_plots_are_drawn(fitted, plot):
    import matplotlib.pyplot as plt

    name, _, tree = fitted
    # Without pooling the mean of groups is no parameter: a constant, which has no density.
    common = ["1|Subject"] if name == "no pooling" else ["Intercept"]
    variables = [*common, *sorted(VARIANCES[name] - {"corr_Subject", "corr_pupil"})]
    # Two subjects of eighteen: what a panel takes does not depend on how many there are.
    coords = {"Subject__factor_dim": ["308", "309"]} if name == "no pooling" else {}
    getattr(az, plot)(tree, var_names=variables, coords=coords, backend="matplotlib")
    figure = plt.gcf()
    figure.canvas.draw()
    assert len(figure.axes) >= 1
    plt.close("all")


def test_loo_takes_the_log_likelihood(fitted):
    _, _, tree = fitted
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Estimated shape parameter of Pareto", UserWarning)  # rows of subject 332
        result = az.loo(tree, pointwise=True)
    assert result.elpd_i.size == tree["observed_data"].to_dataset().sizes["__obs__"]
    assert np.isfinite(result.elpd)


def test_data_of_the_rows_are_there(fitted):
    _, _, tree = fitted
    assert {"posterior", "posterior_predictive", "log_likelihood", "observed_data"} <= set(tree.children)
    ((_, observed),) = tree["observed_data"].data_vars.items()
    ((_, replicated),) = tree["posterior_predictive"].data_vars.items()
    within = (replicated.quantile(0.005, ["chain", "draw"]) <= observed) & (
        observed <= replicated.quantile(0.995, ["chain", "draw"])
    )
    assert within.mean() > 0.9


@pytest.fixture(scope="module")
def keyword():
    X, y = load_sleepstudy(return_X_y=True, as_frame=True)
    return X[["Days"]], y, X["Subject"].to_numpy(), PartialPoolingRegressor().fit(X[["Days"]], y, groups=X["Subject"])


@pytest.mark.parametrize("label", [999, None])
@pytest.mark.parametrize("unknown_groups", ["population", "nan"])
def test_rows_of_new_groups_are_refused_with_the_way_out(keyword, label, unknown_groups):
    X, y, groups, model = keyword
    groups = groups.astype(object)
    groups[:4] = label
    model = copy.copy(model).set_params(unknown_groups=unknown_groups)
    with pytest.raises(ValueError, match=r"4 rows .* groups that fit has not seen.*sample_y"):
        model.to_datatree(X, y, groups)
    assert model.to_datatree(X[4:], y[4:], groups[4:], draws=5)["log_likelihood"].to_dataset().sizes["__obs__"] == 176


@pytest.mark.parametrize("draws", [0, -3, 2.5, True, "10"])
def test_draws_that_are_no_number_of_draws_are_refused(keyword, draws):
    with pytest.raises(ValueError, match=r"draws must be a positive integer.* got"):
        keyword[-1].to_datatree(draws=draws)


@pytest.mark.parametrize("top", [0, 19, 2.5, True, "3"])
def test_a_top_that_is_no_number_of_groups_is_refused(keyword, top):
    with pytest.raises(ValueError, match="top must be a number of groups from 1 to 18, got"):
        keyword[-1].rank_groups(top=top)


def test_labels_that_read_alike_have_coordinates_of_their_own():
    X = np.array([[1], ["1"], ["a"]] * 4, dtype=object)
    model = PartialPoolingRegressor(group_features=[0]).fit(X, np.arange(12.0) % 5)
    tree = model.to_datatree(draws=5, random_state=0)
    (dim,) = (dim for dim in tree["posterior"].dims if dim.endswith("factor_dim"))
    assert sorted(tree["posterior"][dim].values.tolist()) == ["'1'", "'a'", "1"]
