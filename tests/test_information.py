"""Leave-one-group-out and leave-one-row-out against refits and against ArviZ."""

import numpy as np
import pytest
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from hbsk import PartialPoolingRegressor
from hbsk._marginal_fit import integrate_model
from hbsk.datasets import load_sleepstudy
from hbsk.exceptions import ConvergenceWarning
from hbsk.inference.marginal import MarginalModel
from hbsk.inference.statistics import GroupSums
from hbsk.model_selection import compare, loo, waic


@pytest.fixture(scope="module")
def sleepstudy():
    X, y = load_sleepstudy(return_X_y=True, as_frame=True)
    return X, y, PartialPoolingRegressor(group_features="Subject", slope_features="all").fit(X, y)


def refit_without(model, X, y, group):
    """Refit on all other groups, priors and centring held, and return log p(y_j | y_-j) of the group left out."""
    fitted = model._fitted
    frame = model._frame
    sums, scaling = fitted.model.sums, fitted.scaling
    rows = (X["Subject"] == group).to_numpy()
    design = frame.specification.design(frame_table(X), None)
    x, z, _ = design.block(0, len(X))
    xs, zs = scaling.common(x, True), scaling.varying(z[0])
    ys = (y.to_numpy() - scaling.y_centre) / scaling.y_scale
    columns = np.column_stack([xs, ys])[rows]
    keep = np.arange(sums.n_groups) != list(frame.factors["Subject"].labels).index(group)
    rest = GroupSums(
        sums.zz[:, :, keep],
        sums.zx[:, :, keep],
        sums.xx - columns.T @ columns,
        sums.n - rows.sum(),
        0.0,
        sums.copies[keep],
    )
    old = fitted.model
    refit = integrate_model(
        MarginalModel(rest, old.parameters, old.prior_mean, old.prior_precision), scaling, True
    ).posterior
    log_density = []
    for i in range(refit.n_nodes):
        spread = zs[rows] @ refit.factor[i]
        root = xs[rows] @ refit.common_root[i]
        covariance = refit.sigma[i] ** 2 * (np.eye(rows.sum()) + spread @ spread.T) + root @ root.T
        log_density.append(
            multivariate_normal(xs[rows] @ refit.common_mean[i], covariance, allow_singular=True).logpdf(ys[rows])
        )
    return logsumexp(log_density, b=refit.weight) - rows.sum() * np.log(scaling.y_scale)


def frame_table(X):
    from hbsk._table import read_table

    return read_table(PartialPoolingRegressor(), X, reset=True)


def test_leaving_a_group_out_equals_refitting(sleepstudy):
    X, y, model = sleepstudy
    # The rows of subject 332 are so unlikely without it that the plain mixture over the nodes of a refit is off by 0.4
    # (by 0.16 with sixteen times the nodes); every other group is within 0.025, and the sum of them is compared.
    groups = [group for group in np.unique(X["Subject"]) if str(group) != "332"]
    brute = np.array([refit_without(model, X, y, group) for group in groups])
    fast = np.ravel(loo(model, X, y, unit="group").elpd_i)[np.unique(X["Subject"]).astype(str) != "332"]
    assert fast.sum() == pytest.approx(brute.sum(), abs=0.1)
    np.testing.assert_allclose(fast, brute, atol=0.03)


def test_a_row_or_a_group_wise_comparison_prefers_the_slopes(sleepstudy):
    X, y, slopes = sleepstudy
    intercepts = PartialPoolingRegressor(group_features="Subject").fit(X, y)
    for unit in ("row", "group"):
        table = compare({"intercepts": intercepts, "slopes": slopes}, X, y, unit=unit)
        assert table.index[0] == "slopes"


@pytest.mark.filterwarnings("ignore:.*Estimated shape parameter of Pareto:UserWarning")
def test_row_wise_loo_agrees_with_arviz_on_draws(sleepstudy):
    import arviz as az

    X, y, model = sleepstudy
    ours = loo(model, X, y)
    theirs = az.loo(model.to_datatree(X, y, random_state=1))
    # ArviZ's own is unreliable for three of the 180 rows (k > 0.7); its sum moves by about 1 from seed to seed
    assert ours.elpd == pytest.approx(theirs.elpd, abs=3.0)
    with pytest.warns(ConvergenceWarning, match="WAIC is not reliable"):
        assert waic(model, X, y).elpd == pytest.approx(ours.elpd, abs=5.0)


def test_other_rows_than_those_of_fit_are_refused(sleepstudy):
    X, y, model = sleepstudy
    with pytest.raises(ValueError, match="fit"):
        loo(model, X.iloc[:-1], y.iloc[:-1], unit="group")
