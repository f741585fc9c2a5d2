"""Tables of groups: coefficients and deviations, no-pooling estimates, ranks and shares of variance."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from hbsk import JamesSteinEstimator, PartialPoolingRegressor, from_json, to_json
from hbsk._posterior.diagnostics import variance_shares
from hbsk._posterior.parts import VarianceNodes, mean_variance
from hbsk.plotting import GroupEffectsDisplay, GroupSizeDisplay, RankDisplay, ShrinkageDisplay

# One factor with fixed sds: all is one normal law


def lines(n=40, seed=4):
    rng = np.random.default_rng(seed)
    X = pd.DataFrame({"g": rng.integers(0, 6, n), "x": rng.normal(3.0, 1.0, n)})
    X.loc[0, "g"] = 6  # of one row
    X.loc[1:, "g"] = X.loc[1:, "g"] % 6
    y = 1.0 + 0.7 * X["x"] + rng.normal(size=7)[X["g"]] + rng.normal(size=n)
    return X, y


LINE_PRIORS = {
    "sigma": 0.8,
    "1|g": ("Normal", {"mu": 0.4, "sigma": 1.1}),
    "x|g": ("Normal", {"mu": 0.0, "sigma": 0.5}),
    "Intercept": ("Normal", {"mu": 1.0, "sigma": 2.0}),
    "x": ("Normal", {"mu": 0.2, "sigma": 1.5}),
    "centre|g": {"x": 2.0},
}


def dense_lines(X, y):
    """Mean and covariance of (intercept at the mean of x, slope, intercepts of groups at x = 2, their slopes)."""
    x, groups = X["x"].to_numpy(), np.eye(7)[X["g"]]
    design = np.column_stack([np.ones(len(X)), x - x.mean(), groups, groups * (x - 2.0)[:, None]])
    prior_mean = np.concatenate([[1.0, 0.2], np.full(7, 0.4), np.zeros(7)])
    precision = np.diag(np.concatenate([[1 / 4.0, 1 / 2.25], np.full(7, 1 / 1.21), np.full(7, 1 / 0.25)]))
    covariance = np.linalg.inv(precision + design.T @ design / 0.64)
    return covariance @ (precision @ prior_mean + design.T @ y.to_numpy() / 0.64), covariance


def test_deviations_of_one_factor_are_those_of_a_dense_posterior():
    X, y = lines()
    model = PartialPoolingRegressor("x + (x || g)", priors=LINE_PRIORS).fit(X, y)
    mean, covariance = dense_lines(X, y)
    table = model.group_effects(coverage=0.9).set_index(["term", "group"])
    for j in range(7):
        own = {"1|g": {2 + j: 1.0, 9 + j: -2.0}, "x|g": {9 + j: 1.0}}
        common = {"1|g": {0: 1.0, 1: -X["x"].mean()}, "x|g": {1: 1.0}}
        for term, contrast in own.items():
            row = table.loc[(term, j)]
            for name, parts in {"deviation": contrast, "mean": contrast | common[term]}.items():
                vector = np.zeros(16)
                vector[list(parts)] = list(parts.values())
                sd = np.sqrt(vector @ covariance @ vector)
                assert row[name] == pytest.approx(vector @ mean, rel=1e-8)
                assert row["sd" if name == "mean" else "deviation_sd"] == pytest.approx(sd, rel=1e-8)
            # the interval is that of the coefficient, the last one looked at
            assert row["eti90_lb"] == pytest.approx(vector @ mean - norm.ppf(0.95) * sd, rel=1e-6)


def test_a_term_without_a_common_counterpart_is_its_own_deviation():
    X, y = lines()
    table = PartialPoolingRegressor("1 + (x | g)").fit(X, y).group_effects_
    of_x = table[table["term"] == "x|g"]
    np.testing.assert_array_equal(of_x["deviation"], of_x["mean"])
    np.testing.assert_array_equal(of_x["deviation_sd"], of_x["sd"])
    of_1 = table[table["term"] == "1|g"]
    assert (np.abs(of_1["deviation"] - of_1["mean"]) > 0.1).all()


def test_deviations_without_pooling_are_from_the_complete_pooling_value():
    X, y = lines()
    model = PartialPoolingRegressor(group_features="g", slope_features=["x"], pooling="none").fit(X, y)
    complete = PartialPoolingRegressor(group_features="g", pooling="complete").fit(X, y)
    table = model.group_effects_.set_index(["term", "group"])
    for term, value in {"1|g": complete.intercept_, "x|g": complete.coef_[0]}.items():
        np.testing.assert_allclose(table.loc[term, "mean"] - table.loc[term, "deviation"], value, rtol=1e-9)
        # the value is taken as known
        np.testing.assert_allclose(table.loc[term, "deviation_sd"], table.loc[term, "sd"], rtol=1e-9)
        assert np.isinf(table.loc[(term, 6), "deviation_sd"])  # of one row
    assert list(complete.group_effects_) == list(model.group_effects_)
    assert len(complete.group_effects()) == 0


def test_deviations_of_shrunken_means_are_those_of_the_normal_hierarchy():
    """Fixed tau, known errors: theta_j - mu and mu have a joint normal law, mu flat."""
    rng = np.random.default_rng(2)
    error, tau2 = rng.uniform(0.5, 2.0, 8), 0.7
    y = rng.normal(size=8) + 3.0
    model = JamesSteinEstimator(group_features=0, method="empirical-bayes", between_group_variance=tau2)
    table = model.fit(np.arange(8)[:, None], y, standard_error=error).group_effects_
    design = np.column_stack([np.ones(8), np.eye(8)])
    precision = design.T @ (design / error[:, None] ** 2) + np.diag([0.0, *np.full(8, 1 / tau2)])
    covariance = np.linalg.inv(precision)
    np.testing.assert_allclose(table["deviation"], (covariance @ design.T @ (y / error**2))[1:], rtol=1e-9)
    np.testing.assert_allclose(table["deviation_sd"], np.sqrt(np.diag(covariance)[1:]), rtol=1e-9)


# Several factors: what is left of y, group by group


def by_term(model):
    return model.group_effects_.set_index(["term", "group"])


def test_own_estimates_are_least_squares_of_what_the_others_leave(crossed_by_both):
    model, X, y = crossed_by_both
    table, x = by_term(model), X["x"].to_numpy()
    topic = table.loc["1|topic", "deviation"][X["topic"]].to_numpy()
    pupil = table.loc["1|pupil", "deviation"][X["pupil"]] + table.loc["x|pupil", "deviation"][X["pupil"]] * x
    for label in "abcdefg":
        rows = (X["pupil"] == label).to_numpy()
        line = np.polyfit(x[rows], (y.to_numpy() - topic)[rows], 1)
        assert table.loc[("1|pupil", label), "no_pooling"] == pytest.approx(line[1], rel=1e-6)
        assert table.loc[("x|pupil", label), "no_pooling"] == pytest.approx(line[0], rel=1e-6)
    left = y.to_numpy() - pupil.to_numpy() - model.coef_[0] * x
    for label in (1, 2, 3):
        own = left[X["topic"] == label].mean()
        assert table.loc[("1|topic", label), "no_pooling"] == pytest.approx(own, rel=1e-6)


def test_deviations_and_coefficients_of_several_factors_add_up(crossed_by_both):
    model, _, _ = crossed_by_both
    table = by_term(model)
    for term, common in {"1|pupil": model.intercept_, "x|pupil": model.coef_[0], "1|topic": model.intercept_}.items():
        np.testing.assert_allclose(table.loc[term, "mean"] - table.loc[term, "deviation"], common, rtol=1e-9)
    tree = model.to_datatree(draws=None, random_state=0)["posterior"]
    for term in ("1|pupil", "x|pupil", "1|topic"):
        drawn = tree[term].std(["chain", "draw"]).to_numpy()
        np.testing.assert_allclose(table.loc[term, "deviation_sd"], drawn, rtol=1e-6 if len(tree.chain) == 2 else 0.08)


def test_tables_come_back_from_documents(crossed_by_both):
    model, _, _ = crossed_by_both
    again = from_json(to_json(model))
    pd.testing.assert_frame_equal(again.group_effects(), model.group_effects(), check_exact=True)
    pd.testing.assert_frame_equal(again.summary(), model.summary(), check_exact=True)
    pd.testing.assert_frame_equal(again.rank_groups(factor="topic"), model.rank_groups(factor="topic"))


def test_shrinkage_of_draws_integrates_the_other_factors(crossed):
    """Against the inverse of a dense matrix at each draw; that of one factor alone would be another."""
    model, X, _ = crossed
    posterior = model._learnt.fitted.posterior
    x = X["x"].to_numpy()
    pupil, topic = np.eye(7)[X["pupil"].map("abcdefg".index)], np.eye(3)[X["topic"] - 1]
    Z = np.column_stack([pupil, pupil * x[:, None], topic])
    shares, draws = np.zeros(17), posterior.variance_nodes()
    for sigma, sd, correlation, sd_topic in zip(
        draws.sigma, draws.group_sd[0], draws.correlation[0], draws.group_sd[1], strict=True
    ):
        prior = np.zeros((17, 17))
        prior[:14, :14] = np.kron(sd[:, None] * correlation * sd, np.eye(7))
        prior[14:, 14:] = sd_topic[0] ** 2 * np.eye(3)
        left = np.linalg.inv(np.linalg.inv(prior) + Z.T @ Z / sigma**2)
        shares += (1.0 - np.diag(left) / np.diag(prior)) / len(draws.sigma)
    np.testing.assert_allclose(model.shrinkage_["pupil"]["1|pupil"], shares[:7], rtol=1e-6)
    np.testing.assert_allclose(model.shrinkage_["pupil"]["x|pupil"], shares[7:14], rtol=1e-6)
    np.testing.assert_allclose(model.shrinkage_["topic"]["1|topic"], shares[14:], rtol=1e-6)


def test_groups_without_rows_of_their_own_slope_have_no_estimate_of_it():
    X = pd.DataFrame({"a": [0, 0, 0, 1, 1, 1, 2, 3], "b": [0, 1, 2, 0, 1, 2, 0, 1], "x": [1.0, 2, 4, 2, 2, 2, 1, 3]})
    y = np.array([1.0, 2.5, 3.0, 2.0, 2.5, 3.5, 1.5, 2.0])
    table = by_term(PartialPoolingRegressor("x + (x | a) + (1 | b)").fit(X, y))
    assert table.loc["x|a", "no_pooling"].isna().tolist() == [False, True, True, True]
    assert table.loc["1|a", "no_pooling"].isna().tolist() == [False, True, True, True]
    assert table.loc["1|b", "no_pooling"].notna().all()


# Ranks and displays, by factor


@pytest.mark.parametrize("display", [ShrinkageDisplay, GroupSizeDisplay, GroupEffectsDisplay, RankDisplay])
def test_displays_and_ranks_ask_which_factor(crossed_by_both, display):
    import matplotlib.pyplot as plt

    model, _, _ = crossed_by_both
    message = r"grouping factors 'pupil', 'topic'; say with factor= which groups to (show|rank), for example factor='pu"
    for ask in (model.rank_groups, lambda **options: display.from_estimator(model, **options)):
        with pytest.raises(ValueError, match=message):
            ask()
        with pytest.raises(ValueError, match=r"factor='school' is no grouping factor of .* 'pupil', 'topic"):
            ask(factor="school")
        with pytest.raises(ValueError, match=r"term='1\|topic' is no varying term of the factor 'pupil'; .*'x\|pupil'"):
            ask(term="1|topic", factor="pupil")
    shown = display.from_estimator(model, factor="topic")
    shown.figure_.canvas.draw()
    assert (shown.factor, shown.labels.tolist()) == ("topic", [1, 2, 3])
    assert display.from_estimator(model, factor="pupil", term="x|pupil").term == "x"
    plt.close("all")


def test_ranks_of_a_factor_are_those_of_its_first_term(crossed_by_both):
    model, _, _ = crossed_by_both
    pd.testing.assert_frame_equal(model.rank_groups(factor="pupil"), model.rank_groups("1|pupil"))
    slopes = model.rank_groups("x|pupil", factor="pupil", ascending=True, top=2)
    pd.testing.assert_frame_equal(slopes, model.rank_groups("x|pupil", ascending=True, top=2))
    assert slopes.index.name == "pupil"


def test_with_one_factor_its_name_may_be_given():
    X, y = lines()
    for model in (PartialPoolingRegressor(group_features="g"), JamesSteinEstimator(group_features="g")):
        model.fit(X[["g"]], y)
        pd.testing.assert_frame_equal(model.rank_groups(factor="g"), model.rank_groups())
        with pytest.raises(ValueError, match=r"factor='h' is no grouping factor of this model; .* 'g'"):
            model.rank_groups(factor="h")
        with pytest.raises(ValueError, match=r"factor='h' is no grouping factor of this model; .* 'g'"):
            GroupEffectsDisplay.from_estimator(model, factor="h")


# Shares of variance


def test_share_of_fixed_sds_is_their_ratio():
    X, y = lines()
    fixed = {"sigma": 0.8, "1|g": ("Normal", {"mu": 0, "sigma": 1.1})}
    row = PartialPoolingRegressor("1 + (1 | g)", priors=fixed).fit(X, y).summary().loc["variance_share[g]"]
    assert row["mean"] == pytest.approx(1.21 / (1.21 + 0.64))
    assert row["sd"] == pytest.approx(0.0, abs=1e-12)
    assert row["eti95_lb"] == row["eti95_ub"] == pytest.approx(row["mean"])


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_share_with_slopes_is_that_of_the_average_row(shift):
    """Fixed sds at a point of the columns; the mean of z' Sigma z over the rows, by hand."""
    X, y = lines()
    X["x"] += shift
    weight = np.random.default_rng(0).integers(1, 4, len(y))
    priors = {
        "sigma": 0.8,
        "1|g": ("Normal", {"mu": 0, "sigma": 1.1}),
        "x|g": ("Normal", {"mu": 0, "sigma": 0.5}),
        "centre|g": {"x": 2.0 + shift},
    }
    model = PartialPoolingRegressor("x + (x || g)", priors=priors).fit(X, y, sample_weight=weight)
    between = np.average(1.21 + 0.25 * (X["x"] - 2.0 - shift) ** 2, weights=weight)
    share = model.summary().loc["variance_share[g]", "mean"]
    assert share == pytest.approx(between / (between + 0.64), rel=1e-6)


def test_ends_of_a_share_that_falls_where_sigma_rises_are_in_order():
    X, y = lines()
    table = (
        PartialPoolingRegressor("1 + (1 | g)", priors={"1|g": ("Normal", {"mu": 0, "sigma": 1.1})}).fit(X, y).summary()
    )
    ends = table.loc["sigma", ["eti95_ub", "eti95_lb"]].to_numpy(float)
    share = table.loc["variance_share[g]"]
    # a number that falls with sigma has its quantiles at those of sigma
    np.testing.assert_allclose(share[["eti95_lb", "eti95_ub"]].to_numpy(float), 1.21 / (1.21 + ends**2), rtol=1e-6)
    assert share["sd"] > 0.01


def test_shares_of_draws_are_those_of_their_variance_parameters(crossed_by_both):
    """The average over the rows by hand, from the sds and correlations of the draws."""
    model, X, _ = crossed_by_both
    tree = model.to_datatree(draws=None, random_state=0)["posterior"]
    sd = [tree[f"{term}_sigma"].to_numpy().ravel() for term in ("1|pupil", "x|pupil", "1|topic")]
    rho = tree["corr_pupil"].to_numpy().reshape(-1, 2, 2)[:, 0, 1]
    x = X["x"].to_numpy()
    pupil = sd[0] ** 2 + 2 * rho * sd[0] * sd[1] * x.mean() + sd[1] ** 2 * np.mean(x**2)
    total = pupil + sd[2] ** 2 + tree["sigma"].to_numpy().ravel() ** 2
    table = model.summary(diagnostics=True)
    is_nuts = model.inference_.startswith("nuts")
    for name, variance in {"pupil": pupil, "topic": sd[2] ** 2}.items():
        share, row = variance / total, table.loc[f"variance_share[{name}]"]
        error = share.std() / np.sqrt(len(share))
        assert row["mean"] == pytest.approx(share.mean(), abs=1e-9 if is_nuts else 4 * error)
        assert row["sd"] == pytest.approx(share.std(), rel=1e-6 if is_nuts else 0.05)
        ends = np.quantile(share, [0.025, 0.975])
        np.testing.assert_allclose(row[["eti95_lb", "eti95_ub"]].to_numpy(float), ends, atol=0.02)
        assert row["ess_bulk" if is_nuts else "equivalent_draws"] > 20
        assert row["mcse_mean"] < 0.05


def test_average_variance_of_a_row_is_that_of_lme4s_estimate_of_sleepstudy():
    """(Days | Subject): Sigma and sigma of lme4's REML fit; performance::icc gives the adjusted ICC 0.722 for it."""
    root = np.linalg.cholesky([[612.100, 9.604], [9.604, 35.072]])
    days = np.arange(10.0)
    second_moment = np.array([[1.0, days.mean()], [days.mean(), np.mean(days**2)]])
    between = mean_variance(root[None], second_moment)
    nodes = VarianceNodes(np.array([25.592]), [], [], between=between[:, None])
    specification = PartialPoolingRegressor("1 + (1 | g)").fit(*lines())._learnt.frame.specification
    names, shares = variance_shares(specification, nodes)
    assert names == ["variance_share[g]"]
    assert shares[0, 0] == pytest.approx(0.722, abs=5e-4)


def test_there_are_no_shares_where_there_is_no_residual_variance_or_none_between():
    X, y = lines()
    known = PartialPoolingRegressor("1 + (1 | g)").fit(X, y, standard_error=np.ones(len(y)))
    for model in (known, *(PartialPoolingRegressor("1 + (1 | g)", pooling=p).fit(X, y) for p in ("none", "complete"))):
        assert not [name for name in model.summary().index if "share" in name]


def test_share_of_shrunken_means_is_the_ratio_of_the_estimated_variances():
    X, y = lines()
    model = JamesSteinEstimator(group_features="g").fit(X[["g"]], y)
    tau2 = model.between_group_variance_
    row = model.summary().loc["variance_share[g]"]
    assert row["mean"] == pytest.approx(tau2 / (tau2 + model.sigma_**2))
    assert np.isnan(row["sd"])
    assert row["eti95_lb"] < row["mean"] < row["eti95_ub"]  # ends of the profile interval of tau^2, as a share


@pytest.fixture(scope="module")
def one_slope():
    """Return a model and many draws of it."""
    model = PartialPoolingRegressor("x + (1 | g)").fit(*lines())
    return model, model.to_datatree(draws=20_000, random_state=0)["posterior"]


@pytest.mark.parametrize("coverage", [0.5, 0.89, 0.95])
def test_ends_of_intervals_are_named_by_their_level_and_are_those_of_draws(one_slope, coverage):
    model, tree = one_slope
    tables = model.summary(coverage), model.group_effects(coverage)
    ends = [f"eti{100 * coverage:g}_lb", f"eti{100 * coverage:g}_ub"]
    assert list(tables[0]) == ["mean", "sd", *ends]
    assert list(tables[1])[-2:] == ends
    for name in ("x", "sigma", "1|g_sigma"):
        quantile = np.quantile(tree[name].to_numpy(), [(1 - coverage) / 2, (1 + coverage) / 2])
        row = tables[0].loc[name]
        np.testing.assert_allclose(row[ends].to_numpy(float), quantile, atol=0.05 * row["sd"])


def test_summary_fits_80_columns_and_tells_diagnostics_when_asked():
    X, y = lines()
    models = {
        pooling: PartialPoolingRegressor("x + (1 | g)", pooling=pooling) for pooling in ("partial", "complete", "none")
    }
    models["known errors"] = PartialPoolingRegressor("x + (1 | g)")
    models["two sds"] = PartialPoolingRegressor("x + (x | g)")
    for name, model in models.items():
        model.fit(X, y, standard_error=np.full(len(y), 0.3) if name == "known errors" else None)
        for table in (model.summary(), model.summary(diagnostics=True)):
            assert not table.isna().all().any(), name
        assert max(map(len, model.summary().to_string().splitlines())) <= 80
        told = model.summary(diagnostics=True)
        assert list(told) == [*model.summary(), "equivalent_draws", "equivalent_draws_tail", "mcse_mean"]
        common = told.index.intersection(model.diagnostics_.index)
        np.testing.assert_array_equal(told.loc[common, "equivalent_draws"], model.diagnostics_.loc[common, "ess_bulk"])
    with pytest.raises(ValueError, match=r"coverage must be a fraction between 0 and 1 .* got 95"):
        model.summary(coverage=95)


@pytest.mark.parametrize("formula", ["y ~ u + kind + x + (1 | g)", "y ~ u * x + (x | g)", "y ~ 0 + u + x + (1 | g)"])
def test_estimates_without_pooling_leave_out_what_columns_of_the_group_say(formula):
    """They are those of pooling="none": of one line and the group's own level, at the same zero as the mean."""
    rng = np.random.default_rng(3)
    g, u = np.repeat(np.arange(9), 6), rng.normal(2, 1, 9)
    X = pd.DataFrame({"g": g, "u": u[g], "x": rng.normal(size=54), "kind": np.array(list("abc"))[g % 3]})
    y = 1 + 2 * X["u"] + (g % 3) + 0.5 * X["x"] + rng.normal(0, 0.3, 9)[g] + rng.normal(0, 0.5, 54)
    partial, free = (PartialPoolingRegressor(formula, pooling=pooling).fit(X, y) for pooling in ("partial", "none"))
    found = partial.group_effects_["no_pooling"]
    np.testing.assert_allclose(found, free.group_effects_["mean"], rtol=1e-9)
    if formula.endswith("(1 | g)"):
        columns = X.assign(**{f"kind[{kind}]": X["kind"] == kind for kind in "bc"})[free.coef_names_].astype(float)
        np.testing.assert_allclose(found, (y - columns @ free.coef_).groupby(g).mean(), rtol=1e-6)
