"""A small run of simulation-based calibration, and proof that its tools work; the long run is in tests/slow."""

import numpy as np
import pytest
from scipy import stats

from tests.calibration import (
    SETTINGS,
    calibrate,
    coverage_error,
    draw_correlation,
    draw_sd,
    draw_truth,
    ecdf_counts,
    envelope,
    evaluation_points,
    group,
    probability_inside,
    uniformity_p_value,
)

N_FITS = 15
AT_90 = {"prediction": (0.9,), "mean": (0.9,)}


@pytest.fixture(scope="module")
def known_errors():
    return calibrate(SETTINGS["known standard errors"], range(1000, 1000 + 2 * N_FITS), intervals=AT_90)


def test_ranks_are_uniform_and_intervals_cover_with_known_standard_errors(known_errors):
    uniform, covered = known_errors
    assert min(map(uniformity_p_value, uniform.values())) > 1e-4
    for (*_, coverage), hits in covered.items():
        assert abs(hits.mean() - coverage) < 4 * coverage_error(hits, coverage)


def test_a_wrong_prior_is_found_out(known_errors):
    setting = SETTINGS["known standard errors"]
    priors = setting.priors | {"1|g": group("HalfNormal", sigma=0.1)}
    uniform, covered = calibrate(setting, range(1000, 1000 + 2 * N_FITS), intervals={"mean": (0.9,)}, priors=priors)
    assert uniformity_p_value(uniform["sd 1|g"]) < 1e-6
    of_new_groups = "new", "mean", 0.9
    assert covered[of_new_groups].mean() < known_errors[1][of_new_groups].mean() - 0.2


# The tools


def test_probability_that_an_ecdf_stays_inside_against_simulation():
    n, rng = 37, np.random.default_rng(4)
    points = evaluation_points(n)
    lower, upper = (n * points - 5).clip(0).astype(int), (n * points + 4.7).clip(max=n).astype(int)
    counts = np.array([ecdf_counts(rng.random(n)) for _ in range(20_000)])
    simulated = np.mean(np.all((lower <= counts) & (counts <= upper), axis=1))
    exact = probability_inside(n, points, lower, upper)
    assert 0.2 < exact < 0.8
    # Binomial error of the simulation.
    assert abs(simulated - exact) < 4 * np.sqrt(exact * (1 - exact) / 20_000)


@pytest.mark.parametrize("n", [30, 120])
def test_p_values_of_uniform_numbers_are_honest(n):
    rng = np.random.default_rng(n)
    p_values = np.array([uniformity_p_value(rng.random(n)) for _ in range(150)])
    for level in (0.05, 0.3):
        # They are discrete, hence at most the level; and not far below it.
        assert stats.binom.cdf(np.sum(p_values <= level), 150, level) < 1 - 1e-4
        assert np.mean(p_values <= level) > 0.4 * level


@pytest.mark.parametrize(
    "shape", [(1.35, 1.0), (1.0, 1.35), (1.5, 1.5), (0.7, 0.7)], ids=["high", "low", "too wide", "too narrow"]
)
def test_p_values_of_other_numbers_are_small(shape):
    assert uniformity_p_value(np.random.default_rng(5).beta(*shape, size=600)) < 1e-3


def test_envelope_holds_the_promised_share_of_ecdfs():
    rng = np.random.default_rng(8)
    lower, upper = envelope(200, 0.9)
    shares = np.array([ecdf_counts(rng.random(200)) for _ in range(4000)]) / 200
    inside = np.mean(np.all((lower <= shares) & (shares <= upper), axis=1))
    # The envelope is the narrowest of its kind that holds 90 %.
    assert 0.9 - 4 * np.sqrt(0.09 / 4000) < inside < 0.93


def test_draws_from_lkj_have_its_variance():
    rng = np.random.default_rng(9)
    for size, eta in ((2, 1.0), (2, 3.0), (3, 1.0), (3, 2.5)):
        drawn = np.array([draw_correlation(size, eta, rng)[1, 0] for _ in range(3000)])
        # Lewandowski, Kurowicka, Joe (2009): each correlation is a Beta(a, a) on (-1, 1), a = eta - 1 + size / 2.
        shape = eta - 1 + size / 2
        assert stats.kstest((1 + drawn) / 2, stats.beta(shape, shape).cdf).pvalue > 1e-3


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_say_the_same_in_priors_and_columns(name):
    setting = SETTINGS[name]
    assert setting.common(setting.rows).shape == (len(setting.rows), len(setting.common_terms))
    assert setting.varying(setting.rows).shape == (len(setting.rows), len(setting.varying_terms))
    assert sum(key.startswith("corr") for key in setting.priors) == len(setting.blocks)
    truth = draw_truth(setting, 5, np.random.default_rng(0))
    assert truth.effects.shape == (5, len(setting.varying_terms))


def test_sds_are_drawn_from_the_laws_of_scipy():
    laws = {
        ("HalfNormal", (("sigma", 2.0),)): stats.halfnorm(scale=2.0),
        ("HalfStudentT", (("nu", 5.0), ("sigma", 0.7))): None,
        ("HalfCauchy", (("beta", 3.0),)): stats.halfcauchy(scale=3.0),
        ("Exponential", (("lam", 4.0),)): stats.expon(scale=0.25),
        ("Gamma", (("alpha", 3.0), ("beta", 2.0))): stats.gamma(3.0, scale=0.5),
        ("InverseGamma", (("alpha", 5.0), ("beta", 2.0))): stats.invgamma(5.0, scale=2.0),
        ("Uniform", (("lower", 1.0), ("upper", 3.0))): stats.uniform(1.0, 2.0),
    }
    rng = np.random.default_rng(10)
    for (family, arguments), law in laws.items():
        drawn = draw_sd((family, dict(arguments)), rng, 4000)
        if family == "HalfStudentT":  # SciPy has no half of it; the sign is a fair coin
            drawn, law = drawn * rng.choice([-1, 1], 4000), stats.t(5.0, scale=0.7)
        assert stats.kstest(drawn, law.cdf).pvalue > 1e-3, family
