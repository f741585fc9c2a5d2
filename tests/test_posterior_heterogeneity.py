"""The posterior of a random-effects analysis, against sums over a fine grid of tau."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hbsk import JamesSteinEstimator, PartialPoolingRegressor
from tests.test_reference.reference import heterogeneity_data


def fit(data, **parameters):
    X = pd.DataFrame({"study": range(len(data["yi"])), **({"x": data["x"]} if "x" in data else {})})
    return PartialPoolingRegressor(group_features="study", **parameters).fit(X, data["yi"], standard_error=data["sei"])


def study_prior(law):
    return {"1|study": ("Normal", {"mu": 0, "sigma": law}), "Intercept": ("Flat", {})}


def test_moments_and_intervals_are_those_of_a_grid():
    data = {name: np.array(heterogeneity_data("bcg")[name]) for name in ("yi", "sei")}
    found = fit(data, priors=study_prior(("HalfNormal", {"sigma": 0.8}))).heterogeneity(0.9)
    tau = np.linspace(0, 6, 200_001)[1:]
    w = 1 / (np.square(data["sei"])[:, None] + tau**2)
    mean = (w * data["yi"][:, None]).sum(axis=0) / w.sum(axis=0)
    log = 0.5 * np.log(w).sum(axis=0) - 0.5 * np.log(w.sum(axis=0))
    log += -0.5 * (w * (data["yi"][:, None] - mean) ** 2).sum(axis=0) - 0.5 * (tau / 0.8) ** 2
    density = np.exp(log - log.max())
    density /= density.sum()

    def quantiles(values):
        return np.interp([0.05, 0.95], np.cumsum(density), values)

    w0 = data["sei"] ** -2.0
    typical = 12 * w0.sum() / (w0.sum() ** 2 - np.sum(w0**2))
    assert found.typical_variance == pytest.approx(typical)
    i2 = tau**2 / (tau**2 + typical)
    for values, ours, interval in (
        (tau, found.tau, found.tau_interval),
        (tau**2, found.tau2, found.tau2_interval),
        (i2, found.I2, found.I2_interval),
        (1 + tau**2 / typical, found.H2, found.H2_interval),
    ):
        assert ours == pytest.approx(density @ values, rel=2e-4)
        np.testing.assert_allclose(interval, quantiles(values), rtol=1e-3)
    assert found.tau2_se == pytest.approx(np.sqrt(density @ (tau**2 - found.tau2) ** 2), rel=1e-3)
    assert found.estimate == pytest.approx(density @ mean, rel=1e-4)
    assert found.se**2 == pytest.approx(density @ (1 / w.sum(axis=0) + (mean - density @ mean) ** 2), rel=1e-3)
    sd = np.sqrt(tau**2 + 1 / w.sum(axis=0))
    for end, level in zip(found.prediction_interval, (0.05, 0.95), strict=True):
        assert density @ stats.norm.cdf(end, mean, sd) == pytest.approx(level, abs=2e-4)
    assert (found.Q, found.z, found.p, found.estimator) == (None, None, None, "posterior")
    assert list(found.to_frame()) == ["estimate", "se", "eti90_lb", "eti90_ub"]


def test_the_interval_of_a_new_study_is_that_of_predict_interval_and_wider_than_metafors():
    data = heterogeneity_data("three")
    model = fit(data)
    found = model.heterogeneity()
    new = model.predict_interval(pd.DataFrame({"study": [99]}), coverage=0.95, kind="mean")[0]
    np.testing.assert_allclose(found.prediction_interval, new, rtol=1e-9)
    with pytest.warns(match="returned as they are"):
        means = JamesSteinEstimator(group_features=0).fit(np.arange(3)[:, None], data["yi"], standard_error=data["sei"])
    low, high = means.heterogeneity().prediction_interval
    assert new[0] < low < high < new[1]


def test_moderators_leave_a_residual_and_no_interval_of_a_new_study():
    data = heterogeneity_data("bcg")
    found = fit(data).heterogeneity()
    assert found.prediction_interval is None
    assert list(found.coefficients.index) == ["Intercept", "x"]
    assert found.typical_variance == pytest.approx(0.0352861881393774)  # metafor's vt with ~ x
    X = pd.DataFrame({"study": np.repeat(range(13), 2), "x": np.tile([0.0, 1.0], 13)})
    y, errors = np.repeat(data["yi"], 2) + 0.1 * X["x"], np.repeat(data["sei"], 2) * np.tile([1.0, 1.3], 13)
    rows = PartialPoolingRegressor(group_features="study").fit(X, y, standard_error=errors).heterogeneity()
    # a column within studies: trace and rank of what is left of the effects of studies, by dense algebra
    design, member, precision = np.column_stack([np.ones(26), X["x"]]), np.eye(13)[X["study"]], np.diag(errors**-2.0)
    inner = np.linalg.inv(design.T @ precision @ design)
    left = member.T @ (precision - precision @ design @ inner @ design.T @ precision) @ member
    assert rows.typical_variance == pytest.approx(12 / np.trace(left))


def test_moments_that_do_not_exist_are_infinite():
    data = heterogeneity_data("three")
    # tau falls as tau^-(nu + 1) by the prior and as tau^-2 by two contrasts: order nu + 2
    heavy = fit(data, priors=study_prior(("HalfStudentT", {"nu": 1.5, "sigma": 1}))).heterogeneity()
    assert np.isfinite(heavy.tau2)
    assert np.isinf(heavy.tau2_se)
    heavier = fit(heterogeneity_data("two"), priors=study_prior(("HalfCauchy", {"beta": 1}))).heterogeneity()
    assert np.isfinite(heavier.tau)
    assert np.isinf(heavier.tau2)
    assert np.isinf(heavier.H2)
    assert 0 < heavier.I2 < 1
    assert np.isfinite(fit(data, priors=study_prior(("HalfStudentT", {"nu": 3, "sigma": 1}))).heterogeneity().tau2_se)
    fixed = fit(data, priors=study_prior(0.5)).heterogeneity()
    assert (fixed.tau2, fixed.tau2_se, fixed.tau_interval) == (pytest.approx(0.25), 0.0, pytest.approx((0.5, 0.5)))


def test_other_models_are_refused_by_what_they_have():
    data = heterogeneity_data("bcg")
    X = pd.DataFrame({"study": range(13), "other": [0, 1] * 6 + [0], "x": data["x"]})
    y, errors = data["yi"], data["sei"]
    cases = (
        (PartialPoolingRegressor("x + (x | study)"), errors, "columns '1', 'x' vary by 'study'"),
        (PartialPoolingRegressor(group_features="study", pooling="none"), errors, "no variance between groups"),
        (PartialPoolingRegressor(group_features="study", pooling="complete"), errors, "no variance between groups"),
        (PartialPoolingRegressor("1 + (1 | other)"), None, "standard errors of y are not known"),
        (PartialPoolingRegressor("1 + (1 | study) + (1 | other)"), errors, "grouping factors 'study', 'other'"),
    )
    for model, known, words in cases:
        with pytest.raises(ValueError, match=words):
            model.fit(X, y, standard_error=known).heterogeneity()
    with pytest.raises(ValueError, match="coverage must be"):
        fit(data).heterogeneity(95)
