"""The data sets have the numbers of their sources; made-up data follow the truth they return."""

from importlib import resources

import numpy as np
import pandas as pd
import pytest

from hbsk import datasets

# loader, rows, features, target, further columns, groups
LOADERS = [
    (datasets.load_eight_schools, 8, ["school"], "effect", ["standard_error"], 8),
    (
        datasets.load_baseball,
        18,
        ["player"],
        "batting_average",
        ["hits", "at_bats", "remaining_at_bats", "remaining_average", "standard_error"],
        18,
    ),
    (datasets.load_sleepstudy, 180, ["Subject", "Days"], "Reaction", [], 18),
    (datasets.load_radon, 919, ["county", "floor", "uranium"], "log_radon", [], 85),
    (datasets.load_dyestuff, 30, ["Batch"], "Yield", [], 6),
    (datasets.load_dyestuff2, 30, ["Batch"], "Yield", [], 6),
    (
        datasets.load_bcg,
        13,
        ["trial", "ablat", "year"],
        "log_risk_ratio",
        ["author", "tpos", "tneg", "cpos", "cneg", "allocation", "standard_error"],
        13,
    ),
]
each_loader = pytest.mark.parametrize(
    ("load", "n_rows", "features", "target", "extras", "n_groups"),
    LOADERS,
    ids=[loader[0].__name__ for loader in LOADERS],
)


@each_loader
def test_loader_as_frame(load, n_rows, features, target, extras, n_groups):
    bunch = load(as_frame=True)
    assert bunch.data.shape == (n_rows, len(features))
    assert list(bunch.data.columns) == bunch.feature_names == features
    assert bunch.target.name == target
    assert bunch.target_names == [target]
    assert bunch.target.dtype == np.float64
    assert list(bunch.frame.columns) == [*features, *extras, target]
    for name in extras:
        pd.testing.assert_series_equal(bunch[name], bunch.frame[name])
    assert bunch.data.iloc[:, 0].nunique() == n_groups
    assert not bunch.frame.isna().any(axis=None)


@each_loader
def test_loader_as_arrays(load, n_rows, features, target, extras, n_groups):
    bunch, framed = load(), load(as_frame=True)
    assert isinstance(bunch.data, np.ndarray)
    labels_are_strings = not pd.api.types.is_numeric_dtype(framed.data.iloc[:, 0])
    assert bunch.data.dtype == (object if labels_are_strings else np.float64)
    assert bunch.data.tolist() == framed.data.to_numpy(dtype=object).tolist()
    assert bunch.target.dtype == np.float64
    np.testing.assert_array_equal(bunch.target, framed.target)
    assert bunch.frame is None
    for name in extras:
        assert bunch[name].tolist() == framed[name].tolist()


@each_loader
@pytest.mark.parametrize("as_frame", [False, True])
def test_two_values_are_data_and_target(load, n_rows, features, target, extras, n_groups, as_frame):
    X, y = load(return_X_y=True, as_frame=as_frame)
    bunch = load(as_frame=as_frame)
    assert type(X) is type(bunch.data)
    assert np.asarray(X).tolist() == np.asarray(bunch.data).tolist()
    np.testing.assert_array_equal(y, bunch.target)


@each_loader
def test_description_explains_every_column_and_the_file_is_there(load, n_rows, features, target, extras, n_groups):
    bunch = load()
    for name in [*features, *extras, target]:
        assert name in bunch.DESCR
    assert "References" in bunch.DESCR
    assert resources.files(bunch.data_module).joinpath(bunch.filename).is_file()
    assert bunch.filename in resources.files(bunch.data_module).joinpath("README.md").read_text(encoding="utf-8")


def test_changing_a_loaded_set_does_not_change_the_next():
    X, _ = datasets.load_radon(return_X_y=True, as_frame=True)
    X["floor"] = 7
    assert datasets.load_radon(as_frame=True).data["floor"].max() == 1


def test_options_are_keywords():
    with pytest.raises(TypeError):
        datasets.load_radon(True)


def test_eight_schools_pooled_mean():
    # Gelman et al. (2013), section 5.5: pooled estimate 7.7 with standard error 4.1.
    schools = datasets.load_eight_schools()
    weight = schools.standard_error**-2.0
    assert round(float(np.average(schools.target, weights=weight)), 1) == 7.7
    assert round(float(weight.sum() ** -0.5), 1) == 4.1
    assert schools.data[:, 0].tolist() == list("ABCDEFGH")


def test_baseball_gain_of_the_james_stein_estimator():
    # Efron and Morris (1975), section 2: total squared errors 17.56 and 5.01 on the arcsine scale, ratio 3.50.
    players = datasets.load_baseball(as_frame=True)
    assert players.at_bats.unique().tolist() == [45]

    def arcsine(average):
        return np.sqrt(45) * np.arcsin(2 * average - 1)

    x, truth = arcsine(players.target.round(3)), arcsine(players.remaining_average)
    shrinkage = (len(x) - 3) / ((x - x.mean()) ** 2).sum()
    james_stein = x.mean() + (1 - shrinkage) * (x - x.mean())
    errors = ((x - truth) ** 2).sum(), ((james_stein - truth) ** 2).sum()
    # The paper rounds the transformed averages to two digits first.
    assert errors == pytest.approx((17.56, 5.01), abs=0.03)


def test_baseball_standard_error_is_binomial():
    players = datasets.load_baseball()
    mean = players.hits.sum() / (18 * 45)
    np.testing.assert_allclose(players.standard_error, (mean * (1 - mean) / 45) ** 0.5)
    np.testing.assert_array_equal(players.target, players.hits / 45)


def test_sleepstudy_least_squares_line():
    # Bates et al. (2015): fixed effects 251.405 and 10.467, which in balanced data are those of least squares.
    X, y = datasets.load_sleepstudy(return_X_y=True)
    slope, intercept = np.polyfit(X[:, 1], y, 1)
    assert [round(float(value), 3) for value in (intercept, slope)] == [251.405, 10.467]
    assert pd.Series(X[:, 0]).value_counts().unique().tolist() == [10]


def test_radon_homes_and_counties():
    radon = datasets.load_radon(as_frame=True)
    sizes = radon.data["county"].value_counts()
    assert (sizes.min(), sizes.max()) == (1, 116)
    assert sizes.idxmax() == "ST LOUIS"
    assert radon.data["floor"].value_counts().to_dict() == {0: 766, 1: 153}
    assert (radon.frame.groupby("county")["uranium"].nunique() == 1).all()
    # Gelman and Hill (2007), section 12.3: complete pooling gives 1.33 - 0.61 floor.
    slope, intercept = np.polyfit(radon.data["floor"], radon.target, 1)
    assert [round(float(value), 2) for value in (intercept, slope)] == [1.33, -0.61]


@pytest.mark.parametrize(
    ("load", "between", "within"),
    [
        # Davies and Goldsmith (1972), section 6.4: sums of squares 56,358 with 5 and 58,830 with 24 degrees of freedom.
        (datasets.load_dyestuff, 56357.5, 58830.0),
        # Box and Tiao (1973), section 5.1.2: 41.6816 and 358.7014.
        (datasets.load_dyestuff2, 41.6816, 358.7014),
    ],
)
def test_dyestuff_sums_of_squares(load, between, within):
    yields = load(as_frame=True).frame.groupby("Batch")["Yield"]
    assert 5 * 5 * yields.mean().var() == pytest.approx(between, abs=5e-5)
    assert 4 * yields.var().sum() == pytest.approx(within, abs=5e-5)


def test_bcg_log_risk_ratios():
    # metafor 3.8-1: escalc(measure = "RR", ai = tpos, bi = tneg, ci = cpos, di = cneg, data = dat.bcg)
    trials = datasets.load_bcg(as_frame=True)
    expected = [-0.88931133, -1.58538866, -1.34807315, -1.44155119, -0.21754732, -0.78611559, -1.62089822]
    expected += [0.01195233, -0.46941765, -1.37134480, -0.33935883, 0.44591340, -0.01731395]
    np.testing.assert_allclose(trials.target, expected, atol=6e-9)
    standard_errors = [0.57060035, 0.44111350, 0.64449047, 0.14145682, 0.22629665, 0.08310005, 0.47224702]
    standard_errors += [0.06294108, 0.23755886, 0.27023100, 0.11141012, 0.72972998, 0.26721650]
    np.testing.assert_allclose(trials.standard_error, standard_errors, atol=6e-9)
    assert trials.data["trial"].tolist()[:2] == ["Aronson 1948", "Ferguson & Simes 1949"]


# make_grouped_regression


def test_response_without_noise_is_the_model():
    X, y, truth = datasets.make_grouped_regression(
        7,
        [1, 2, 3, 4, 5, 6, 7],
        3,
        intercept=-1.5,
        coef=[0.3, -2.0, 1.1],
        group_sd=[2.0, 0.7, 0.1],
        group_correlation=0.3,
        residual_sd=0.0,
        return_parameters=True,
        random_state=3,
    )
    for row, response in zip(X, y, strict=True):
        u = truth.group_effects[int(row[0])]
        by_hand = -1.5 + 0.3 * row[1] - 2.0 * row[2] + 1.1 * row[3] + u[0] + u[1] * row[1] + u[2] * row[2]
        assert response == pytest.approx(by_hand, rel=1e-12)
    assert np.bincount(X[:, 0].astype(int)).tolist() == [1, 2, 3, 4, 5, 6, 7] == truth.n_per_group.tolist()


def test_effects_and_residuals_have_the_moments_asked_for():
    sd, correlation = np.array([2.0, 0.5, 1.5]), np.array([[1.0, -0.6, 0.2], [-0.6, 1.0, 0.4], [0.2, 0.4, 1.0]])
    n_groups = 20_000
    X, y, truth = datasets.make_grouped_regression(
        n_groups,
        2,
        2,
        group_sd=sd,
        group_correlation=correlation,
        residual_sd=0.3,
        return_parameters=True,
        random_state=11,
    )
    covariance = correlation * np.outer(sd, sd)
    # The variance of a sample covariance is (S_ii S_jj + S_ij^2) / J; four standard errors.
    error = np.sqrt((np.outer(sd**2, sd**2) + covariance**2) / n_groups)
    assert (np.abs(np.cov(truth.group_effects.T) - covariance) < 4 * error).all()
    u = truth.group_effects[X[:, 0].astype(int)]
    residual = y - (truth.intercept + u[:, 0] + ((truth.coef + u[:, 1:]) * X[:, 1:]).sum(axis=1))
    assert residual.std() == pytest.approx(0.3, rel=4 / np.sqrt(2 * len(y)))
    assert abs(residual.mean()) < 4 * 0.3 / np.sqrt(len(y))
    np.testing.assert_array_equal(truth.group_correlation, correlation)
    np.testing.assert_array_equal(truth.group_sd, sd)


def test_same_seed_same_data_as_frame_or_arrays():
    options = {"n_groups": 4, "n_per_group": 3, "n_features": 2, "group_sd": [1.0, 0.5], "random_state": 5}
    X, y = datasets.make_grouped_regression(**options)
    frame, series = datasets.make_grouped_regression(**options, as_frame=True)
    assert list(frame.columns) == ["group", "x0", "x1"]
    assert series.name == "y"
    assert np.issubdtype(frame["group"].dtype, np.integer)
    np.testing.assert_array_equal(frame.to_numpy(), X)
    np.testing.assert_array_equal(series, y)
    assert not np.array_equal(datasets.make_grouped_regression(**{**options, "random_state": 6})[1], y)


def test_shuffle_mixes_the_groups_and_without_it_they_come_in_order():
    X, _ = datasets.make_grouped_regression(5, 4, shuffle=False, random_state=0)
    assert X[:, 0].tolist() == np.repeat(np.arange(5), 4).tolist()
    X, _ = datasets.make_grouped_regression(5, 4, random_state=0)
    assert X[:, 0].tolist() != np.repeat(np.arange(5), 4).tolist()


def test_unequal_sizes_cover_their_range_with_more_small_groups():
    *_, truth = datasets.make_grouped_regression(3000, 2, 0, max_per_group=50, return_parameters=True, random_state=1)
    sizes = truth.n_per_group
    assert (sizes.min(), sizes.max()) == (2, 50)
    # On the log scale the range 1.5 to 50.5 has its middle at the geometric mean, 8.7.
    assert np.mean(sizes <= 8) == pytest.approx(0.5, abs=0.05)


def test_no_features_and_perfect_correlation():
    X, y = datasets.make_grouped_regression(3, 2, 0, random_state=0)
    assert X.shape == (6, 1)
    assert y.shape == (6,)
    *_, truth = datasets.make_grouped_regression(
        4, 2, 1, group_sd=[1.0, 3.0], group_correlation=-1.0, return_parameters=True, random_state=0
    )
    np.testing.assert_allclose(truth.group_effects[:, 1], -3.0 * truth.group_effects[:, 0], rtol=1e-7)


def test_one_coefficient_stands_for_all():
    *_, truth = datasets.make_grouped_regression(3, n_features=4, coef=2, return_parameters=True, random_state=0)
    assert truth.coef.tolist() == [2.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"n_groups": 0}, ValueError, "n_groups=0"),
        ({"n_groups": 2.5}, TypeError, "n_groups=2.5"),
        ({"n_groups": True}, TypeError, "n_groups=True"),
        ({"n_features": -1}, ValueError, "n_features=-1"),
        ({"n_per_group": 0}, ValueError, "n_per_group=0"),
        ({"n_per_group": [1, 2, 3]}, ValueError, "n_per_group has 3 entries for n_groups=20"),
        ({"n_per_group": [1.5] * 20}, TypeError, "n_per_group=1.5"),
        ({"max_per_group": 9}, ValueError, "max_per_group=9"),
        ({"n_per_group": [2] * 20, "max_per_group": 9}, TypeError, "n_per_group"),
        ({"intercept": "a"}, TypeError, "intercept='a'"),
        ({"intercept": np.nan}, ValueError, "intercept=nan"),
        ({"residual_sd": -0.1}, ValueError, "residual_sd=-0.1"),
        ({"coef": [1.0, 2.0]}, ValueError, "coef has shape"),
        ({"coef": ["a"]}, TypeError, "coef=\\['a'\\]"),
        ({"group_sd": [1.0, 1.0, 1.0]}, ValueError, "group_sd has shape"),
        ({"group_sd": -1.0}, ValueError, "group_sd=-1.0"),
        ({"group_sd": np.inf}, ValueError, "group_sd=inf"),
        ({"group_sd": [1.0, 1.0], "group_correlation": 1.5}, ValueError, "group_correlation=1.5"),
        ({"group_sd": [1.0, 1.0], "group_correlation": [[1.0, 0.2], [0.3, 1.0]]}, ValueError, "group_correlation"),
        ({"group_sd": [1.0, 1.0], "group_correlation": [[2.0, 0.2], [0.2, 1.0]]}, ValueError, "group_correlation"),
        ({"n_features": 2, "group_sd": [1.0, 1.0, 1.0], "group_correlation": -0.6}, ValueError, "group_correlation"),
    ],
)
def test_bad_options_are_named(options, error, words):
    with pytest.raises(error, match=words):
        datasets.make_grouped_regression(**options)
