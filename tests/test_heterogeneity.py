"""Random-effects analyses: against metafor, exact sums over pairs, F ratios of analysis of variance."""

from contextlib import nullcontext
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hbsk import JamesSteinEstimator
from hbsk.exceptions import ShrinkageWarning
from hbsk.meta_analysis import Heterogeneity
from tests.test_parity import schools
from tests.test_reference.reference import heterogeneity_data, heterogeneity_models

NAMES = {"REML": "reml", "ML": "ml", "DL": "dersimonian-laird", "PM": "paule-mandel"}
MODELS = [pytest.param(m, id=f"{m['data']} {m['moderators']} {m['method']}") for m in heterogeneity_models()]
INTERVALS = ("tau2_interval", "tau_interval", "I2_interval", "H2_interval", "prediction_interval")


def analyse(data, method="reml", moderators="~1", coverage=0.95, **parameters):
    """Return the analysis of one row a study, given in groups=."""
    target = {} if moderators == "~1" else {"target": "regression"}
    estimator = JamesSteinEstimator(between_group_variance=method, **target, **parameters)
    columns = {"~1": [], "~x": ["x"], "~x + z": ["x", "z"]}[moderators]
    k = len(data["yi"])
    X = np.column_stack([data[name] for name in columns]) if columns else np.zeros((k, 1))
    with pytest.warns(ShrinkageWarning) if k < 4 else nullcontext():
        estimator.fit(X, data["yi"], np.arange(k), standard_error=data["sei"])
    return estimator.heterogeneity(coverage)


def in_metafors_words(found: Heterogeneity) -> dict:
    """Return the numbers by the names of the stored ones; shares are percentages there."""
    numbers = {
        name: getattr(found, name) for name in (*INTERVALS, "tau2", "tau2_se", "H2", "Q", "df", "Q_p", "QM", "QM_p")
    }
    numbers |= {"I2": 100 * found.I2, "I2_interval": tuple(100 * end for end in found.I2_interval)}
    numbers["typical_variance"] = found.typical_variance
    ends = {"eti95_lb": "lower", "eti95_ub": "upper"}
    return numbers | {ends.get(name, name): column.to_numpy() for name, column in found.coefficients.items()}


@pytest.mark.parametrize("model", MODELS)
def test_numbers_are_those_of_metafor(model):
    data = heterogeneity_data(model["data"])
    ours = in_metafors_words(analyse(data, NAMES[model["method"]], model["moderators"]))
    for name, theirs in model["tight"].items():
        if np.isnan(np.array(theirs, dtype=float)).all():
            assert ours[name] is None, name
            continue
        # weights that differ by 1e12 cost metafor digits, as it warns; ours are held to exact sums below
        exact = model["data"] != "unequal"
        np.testing.assert_allclose(ours[name], theirs, rtol=1e-6 if exact else 1e-3, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("model", [m for m in MODELS if m.id.startswith("bcg")])
def test_what_metafor_prints_is_within_its_own_tolerances(model):
    """REML is iterated until tau2 moves by less than 1e-5, Q-profile ends to eps^0.25."""
    data = heterogeneity_data(model["data"])
    ours = in_metafors_words(analyse(data, NAMES[model["method"]], model["moderators"]))
    printed = model["printed"]
    assert ours["tau2"] == pytest.approx(printed["tau2"], abs=2e-4)
    np.testing.assert_allclose(ours["tau2_interval"], printed["tau2_interval"], atol=np.finfo(float).eps ** 0.25)
    for name in ("estimate", "se", "lower", "upper"):
        np.testing.assert_allclose(ours[name], printed[name], atol=2e-4, err_msg=name)
    np.testing.assert_allclose(ours["Q"], printed["Q"], rtol=1e-9)


def test_an_upper_end_is_searched_beyond_metafors_cap():
    (model,) = [m for m in heterogeneity_models() if (m["data"], m["method"]) == ("two", "REML")]
    assert model["printed"]["tau2_interval"][1] == 100
    assert analyse(heterogeneity_data("two")).tau2_interval[1] == pytest.approx(249.457026081319)
    y = np.array([0.0, 1.0])  # (y1 - y2)^2 / (2 (1e-8 + tau2)) is chi-square on one degree
    with pytest.warns(ShrinkageWarning):
        two = JamesSteinEstimator().fit(np.zeros((2, 1)), 1e6 * y, [0, 1], standard_error=1e-4).heterogeneity(0.99)
    assert two.tau2_interval[1] == pytest.approx(0.5e12 / stats.chi2.ppf(0.005, 1))


def test_an_empty_interval_is_zero_with_a_note():
    found = analyse(heterogeneity_data("empty"))
    assert found.tau2_interval == found.tau_interval == found.I2_interval == (0.0, 0.0)
    assert found.H2_interval == (1.0, 1.0)
    assert any("empty" in note for note in found.notes)
    assert "is empty" in repr(found)
    same = analyse({"yi": [0.4] * 5, "sei": [0.1, 0.2, 0.3, 0.1, 0.2]})
    assert (same.tau2, same.Q, same.Q_p, same.tau2_interval) == (0.0, pytest.approx(0.0, abs=1e-20), 1.0, (0.0, 0.0))
    assert not analyse(heterogeneity_data("bcg")).notes


@pytest.mark.parametrize("method", ["james-stein", "empirical-bayes", "sure"])
def test_every_method_has_the_same_analysis(method):
    data = heterogeneity_data("bcg")
    one = JamesSteinEstimator(method=method).fit(np.zeros((13, 1)), data["yi"], range(13), standard_error=data["sei"])
    pd.testing.assert_frame_equal(one.heterogeneity().to_frame(), analyse(data).to_frame())


def pairs(variances, tau2, power):
    """Return tr P or tr PP for one mean, in extended precision, as a sum over pairs without differences."""
    w = 1 / (np.array(variances, dtype=np.longdouble) + np.longdouble(tau2))
    n, total = len(w), np.sum(w)
    if power == 1:
        return sum(w[i] * w[j] for i in range(n) for j in range(n) if i != j) / total
    own = sum((w[i] * sum(w[j] for j in range(n) if j != i) / total) ** 2 for i in range(n))
    return own + sum((w[i] * w[j] / total) ** 2 for i in range(n) for j in range(n) if i != j)


@pytest.mark.parametrize("ratio", [1.0, 1e3, 1e7])
def test_standard_errors_that_differ_by_ten_millions_lose_no_digits(ratio):
    errors = np.array([1.0, 0.7, 1.3, 2.0, 0.9]) * np.array([1.0, ratio, ratio, ratio, ratio])
    y = np.array([0.1, 3.0, -2.0, 1.0, 5.0]) * ratio
    reml = analyse({"yi": y, "sei": errors})
    assert reml.typical_variance == pytest.approx(float(4 / pairs(errors**2, 0, 1)), rel=1e-9)
    assert reml.tau2_se == pytest.approx(float(np.sqrt(2 / pairs(errors**2, reml.tau2, 2))), rel=1e-9)
    moments = analyse({"yi": y, "sei": errors}, "dersimonian-laird")
    trace = pairs(errors**2, 0, 1)
    w = 1 / errors.astype(np.longdouble) ** 2
    q = sum(w[i] * w[j] * (y[i] - y[j]) ** 2 for i in range(5) for j in range(i)) / np.sum(w)
    assert pytest.approx(float(q), rel=1e-9) == moments.Q
    assert moments.tau2 == pytest.approx(float((q - 4) / trace), rel=1e-9)
    for end, level in zip(moments.tau2_interval, (0.975, 0.025), strict=True):
        w = 1 / (errors.astype(np.longdouble) ** 2 + end)
        at_end = sum(w[i] * w[j] * (y[i] - y[j]) ** 2 for i in range(5) for j in range(i)) / np.sum(w)
        assert float(at_end) == pytest.approx(stats.chi2.ppf(level, 4), rel=1e-9)


def test_scale_and_shift_go_through():
    data = heterogeneity_data("bcg")
    plain = analyse(data).to_frame()
    for scale in (1e-45, 1e45):
        found = analyse({"yi": scale * np.array(data["yi"]), "sei": scale * np.array(data["sei"])}).to_frame()
        found.loc[["Intercept", "tau", "prediction"], ["estimate", "se", "eti95_lb", "eti95_ub"]] /= scale
        found.loc["tau2", ["estimate", "se", "eti95_lb", "eti95_ub"]] /= scale**2
        pd.testing.assert_frame_equal(found, plain, rtol=1e-8)


def test_rows_within_groups_make_quantiles_of_f():
    """Q / (J - 1) is the F ratio of a one-way analysis of variance; ends of I2 are those of Wald's exact interval."""
    rng = np.random.default_rng(5)
    group = np.repeat(np.arange(6), 4)
    y = rng.normal(size=6)[group] + rng.normal(size=24)
    found = JamesSteinEstimator().fit(np.zeros((24, 1)), y, group).heterogeneity(0.9)
    ratio, p = stats.f_oneway(*(y[group == g] for g in range(6)))
    assert pytest.approx(ratio) == found.Q / 5
    assert found.Q_p == pytest.approx(p)
    # with equal sizes n the interval of tau2 / sigma2 is (F / F_level - 1) / n (Searle, Casella, McCulloch 1992)
    ends = (ratio / stats.f.ppf([0.95, 0.05], 5, 18) - 1) / 4
    np.testing.assert_allclose(found.I2_interval, ends / (ends + 0.25), rtol=1e-9)
    assert found.typical_variance == pytest.approx(np.mean([y[group == g].var(ddof=1) for g in range(6)]) / 4)


def test_columns_that_vary_within_groups_leave_their_residual_heterogeneity():
    """With known errors the analysis of rows is generalised least squares; Q less what is within groups is ours."""
    X, y = schools()
    errors = np.random.default_rng(2).uniform(0.5, 2.0, len(y))
    model = JamesSteinEstimator(group_features="school", target="regression", between_group_variance="paule-mandel")
    found = model.fit(X, y, standard_error=errors).heterogeneity()
    code = pd.factorize(X["school"])[0]
    design, member = np.column_stack([np.ones(len(y)), X["x"]]), np.eye(12)[code]

    def rest(columns, tau2):
        covariance = np.diag(errors**2) + tau2 * member @ member.T
        inverse = np.linalg.inv(covariance)
        inner = np.linalg.inv(columns.T @ inverse @ columns)
        projection = inverse - inverse @ columns @ inner @ columns.T @ inverse
        return y @ projection @ y, inner @ columns.T @ inverse @ y, np.sqrt(np.diag(inner)), projection

    within = rest(np.column_stack([member, X["x"]]), 0.0)[0]
    square, _, _, projection = rest(design, 0.0)
    assert pytest.approx(square - within) == found.Q
    assert found.df == 12 - 1
    trace = np.trace(member.T @ projection @ member)
    assert found.typical_variance == pytest.approx(found.df / trace)
    square, coef, se, _ = rest(design, found.tau2)
    np.testing.assert_allclose(found.coefficients["estimate"], coef, rtol=1e-7)
    np.testing.assert_allclose(found.coefficients["se"], se, rtol=1e-7)
    for end, level in zip(found.tau2_interval, (0.975, 0.025), strict=True):
        assert rest(design, end)[0] - within == pytest.approx(stats.chi2.ppf(level, 11))
    assert pytest.approx((coef[1] / se[1]) ** 2) == found.QM
    assert found.prediction_interval is None


def test_a_given_mean_is_what_differences_are_about():
    data = heterogeneity_data("bcg")
    found = analyse(data, "paule-mandel", target=-0.5)
    w = 1 / np.square(data["sei"])
    d = np.array(data["yi"]) + 0.5
    assert pytest.approx(np.sum(w * d**2)) == found.Q
    assert (found.df, found.estimate, found.se) == (13, -0.5, 0.0)
    assert np.isnan(found.z)
    assert np.isnan(found.p)
    assert np.sum(d**2 / (np.square(data["sei"]) + found.tau2)) == pytest.approx(13)
    assert found.typical_variance == pytest.approx(13 / np.sum(w))
    assert found.notes == ("The mean was given, not estimated.",)


def test_a_given_variance_has_an_interval_and_no_standard_error():
    data = heterogeneity_data("bcg")
    found = analyse(data, 0.2)
    assert (found.tau2, found.estimator) == (0.2, "given")
    assert np.isnan(found.tau2_se)
    assert found.tau2_interval == pytest.approx(analyse(data).tau2_interval)
    w = 1 / (np.square(data["sei"]) + 0.2)
    assert found.estimate == pytest.approx(np.sum(w * data["yi"]) / w.sum())
    assert found.se == pytest.approx(w.sum() ** -0.5)


def test_weights_are_copies_and_standard_errors_pool():
    data = {name: np.array(values) for name, values in heterogeneity_data("bcg").items()}
    label = np.arange(13)
    copies = np.array([1, 2, 1, 3, 1, 1, 1, 1, 2, 1, 1, 1, 1])
    weighted = JamesSteinEstimator().fit(
        np.zeros((13, 1)), data["yi"], label, standard_error=data["sei"], sample_weight=copies
    )
    pooled = analyse({"yi": data["yi"], "sei": data["sei"] / np.sqrt(copies)})
    pd.testing.assert_frame_equal(weighted.heterogeneity().to_frame(), pooled.to_frame(), rtol=1e-9)
    np.testing.assert_allclose(weighted.group_standard_errors_, data["sei"] / np.sqrt(copies))


@pytest.mark.parametrize(
    ("fit", "words"),
    [
        ({"y": [1.0, 2.0], "groups": [0, 0], "standard_error": 1.0}, "1 groups leave 0 degrees of freedom"),
        ({"y": [1.0, 2.0, 3.0, 5.0], "groups": [0, 1, 2, 3]}, "Pass standard_error="),
        ({"y": [1.0, 1.0, 3.0, 3.0], "groups": [0, 0, 1, 1]}, "rows of every group are equal"),
        ({"y": [1.0, 2.0, 3.0, 5.0]}, "fitted without"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_cannot_be_analysed_is_refused_by_name(fit, words):
    model = JamesSteinEstimator().fit(np.arange(len(fit["y"]))[:, None], **fit)
    with pytest.raises(ValueError, match=words):
        model.heterogeneity()
    assert model.summary().index[0] == "Intercept"


def test_coverage_is_checked_and_changes_the_intervals():
    data = heterogeneity_data("bcg")
    with pytest.raises(ValueError, match="coverage must be a fraction"):
        analyse(data, coverage=95)
    half, most = analyse(data, coverage=0.5), analyse(data, coverage=0.99)
    for name in INTERVALS:
        assert getattr(most, name)[0] < getattr(half, name)[0] < getattr(half, name)[1] < getattr(most, name)[1]
    assert half.interval[1] - half.estimate == pytest.approx(stats.norm.ppf(0.75) * half.se)


def test_it_prints_as_metafor_does_and_fits_80_columns():
    text = repr(analyse(heterogeneity_data("bcg")))
    for piece in (
        "13 groups",
        "REML",
        "0.3132  0.1664",
        "92.22 %",
        "12.8558",
        "Q(12) = 152.2330, p < .0001",
        "-1.8667",
    ):
        assert piece in text
    assert max(map(len, text.splitlines())) <= 80
    regression = repr(analyse(heterogeneity_data("bcg"), moderators="~x"))
    for piece in ("QM(1) = 16.358", "residual heterogeneity", "30.7331, p = 0.0012"):
        assert piece in regression


def test_a_table_holds_what_the_attributes_say():
    found = analyse(heterogeneity_data("bcg"))
    table = found.to_frame()
    assert list(table.index) == ["Intercept", "tau2", "tau", "I2", "H2", "prediction", "Q"]
    assert tuple(table.loc["I2", ["estimate", "eti95_lb", "eti95_ub"]]) == (found.I2, *found.I2_interval)
    assert tuple(table.loc["Q", ["estimate", "df", "p"]]) == (found.Q, 12, found.Q_p)
    assert tuple(table.loc["Intercept", ["estimate", "se", "eti95_lb", "eti95_ub"]]) == (
        found.estimate, found.se, *found.interval,
    )  # fmt: skip
    with pytest.raises(AttributeError):
        found.tau2 = 0.0


# ---------------------------------------------------------------------------------------------------------------------
# summary


def test_the_summary_names_the_fit_and_has_the_intervals_of_groups_less_coefficients():
    data = heterogeneity_data("bcg")
    model = JamesSteinEstimator(method="empirical-bayes", target="regression")
    model.fit(np.array(data["x"])[:, None], data["yi"], range(13), standard_error=data["sei"])
    table, analysis = model.summary(coverage=0.8), model.heterogeneity(0.8)
    assert (table.columns.name, table.index.name) == ("empirical-bayes", "target: regression")
    assert list(table["df"]) == [11, 11, 11, 11]
    assert tuple(table.loc["between_group_variance"].iloc[:4]) == (
        analysis.tau2, analysis.tau2_se, *analysis.tau2_interval,
    )  # fmt: skip
    assert table.loc["1|groups_sigma", "eti80_ub"] == pytest.approx(analysis.tau_interval[1])
    # of the slope: t on 11 degrees of freedom times the standard error given tau2
    reach = stats.t.ppf(0.9, 11) * analysis.coefficients.loc["x0", "se"]
    assert table.loc["x0", "eti80_ub"] - table.loc["x0", "mean"] == pytest.approx(reach)
    mean = JamesSteinEstimator(method="empirical-bayes")
    mean.fit(np.zeros((13, 1)), data["yi"], range(13), standard_error=data["sei"])
    row = mean.summary().loc["Intercept"]
    assert row["mean"] == pytest.approx(mean.heterogeneity().estimate)
    assert row["eti95_ub"] - row["mean"] == pytest.approx(stats.t.ppf(0.975, 12) * mean.heterogeneity().se)
    assert max(map(len, repr(mean.summary()).splitlines())) <= 80


def test_rows_within_groups_tell_their_slopes_on_their_own_degrees_of_freedom():
    X, y = schools()
    model = JamesSteinEstimator(group_features="school", target="regression").fit(X, y)
    table = model.summary()
    assert table.loc["x", "df"] == len(y) - 12 - 1
    assert table.loc["Intercept", "df"] == 11
    share, ends = table.loc["variance_share[school]"], model.heterogeneity().tau2_interval
    assert share["eti95_lb"] == pytest.approx(ends[0] / (ends[0] + model.sigma2_))
    given = JamesSteinEstimator(group_features="school", between_group_variance=0.5).fit(X[["school"]], y).summary()
    assert given.loc["Intercept", "df"] == len(y) - 12


def exact_projection(errors, x, tau2):
    """Return P of a regression on one column, in rational numbers."""
    v = [Fraction(e) ** 2 + Fraction(tau2) for e in errors]
    z = [(Fraction(1), Fraction(value)) for value in x]
    a, b, d = (sum(row[i] * row[j] / t for row, t in zip(z, v, strict=True)) for i, j in ((0, 0), (0, 1), (1, 1)))
    inverse = ((d / (a * d - b * b), -b / (a * d - b * b)), (-b / (a * d - b * b), a / (a * d - b * b)))

    def entry(i, j):
        inner = sum(z[i][k] * inverse[k][m] * z[j][m] for k in (0, 1) for m in (0, 1))
        return (Fraction(int(i == j)) - inner / v[j]) / v[i]

    n = range(len(v))
    return [[entry(i, j) for j in n] for i in n]


@pytest.mark.parametrize("small", [[1e-3], [1e-6], [1e-6, 1e-6], [1e-6, 2e-7]])
def test_moderators_lose_no_digits_beside_errors_that_differ_by_millions(small):
    rng = np.random.default_rng(3)
    x, errors = rng.uniform(1, 2, 9), np.append(small, rng.uniform(0.5, 2.0, 9 - len(small)))
    y = 1 + x + rng.normal(size=9)
    found = analyse({"yi": y, "sei": errors, "x": x}, "dersimonian-laird", "~x")
    p = exact_projection(errors, x, 0)
    trace = sum(p[i][i] for i in range(9))
    q = sum(Fraction(y[i]) * p[i][j] * Fraction(y[j]) for i in range(9) for j in range(9))
    # two such studies tell both coefficients, and what is left of them is told to fewer digits
    tolerance = 1e-8 if len(small) == 1 else 1e-5
    assert found.typical_variance == pytest.approx(float(7 / trace), rel=tolerance)
    assert pytest.approx(float(q), rel=1e-6) == found.Q
    assert found.tau2 == pytest.approx(float((q - 7) / trace) if q > 7 else 0.0, rel=tolerance)
    square = sum(p[i][j] ** 2 for i in range(9) for j in range(9))
    tau2 = Fraction(found.tau2)
    variance = (14 + 4 * tau2 * trace + 2 * tau2**2 * square) / trace**2
    assert found.tau2_se == pytest.approx(float(variance) ** 0.5, rel=tolerance)
    reml = analyse({"yi": y, "sei": errors, "x": x}, "reml", "~x")
    p = exact_projection(errors, x, reml.tau2)
    square = sum(p[i][j] ** 2 for i in range(9) for j in range(9))
    assert reml.tau2_se == pytest.approx(float(2 / square) ** 0.5, rel=1e-6)
    if reml.tau2 > 0:  # the restricted likelihood has its slope 0 there
        inner = [sum(p[i][j] * Fraction(y[j]) for j in range(9)) for i in range(9)]
        assert float(sum(value**2 for value in inner) / sum(p[i][i] for i in range(9))) == pytest.approx(1, rel=1e-6)
