"""NUTS against closed forms, and the way back from Bambi's variables to arrays."""

import logging
import warnings

import numpy as np
import pytest
from arviz_stats.base import array_stats

from hbsk._bambi import sampling as nuts
from hbsk._bambi.model import build_model
from hbsk._engine import nuts as engine_nuts
from hbsk._model.default_priors import default_priors
from tests.stand_ins import Design, FactorTerms, Specification, moments_of

# Rubin (1981), eight schools: effects and their standard errors.
EFFECTS = np.array([28.0, 8.0, -3.0, 7.0, -1.0, 1.0, 18.0, 12.0])
ERRORS = np.array([15.0, 10.0, 16.0, 11.0, 9.0, 11.0, 10.0, 18.0])
PRIOR_SD, TAU = 20.0, 7.0


def eight_schools(**priors):
    ones = np.ones((8, 1))
    factor = FactorTerms("school", ("1",), ("1|school",), ((0,),))
    specification = Specification("effect", True, ("Intercept",), ("Intercept",), (factor,))
    priors = {
        "Intercept": ("Normal", {"mu": 0.0, "sigma": PRIOR_SD}),
        "1|school": ("Normal", {"mu": 0.0, "sigma": TAU}),
    } | priors
    codes, groups = {"school": np.arange(8)}, {"school": list("ABCDEFGH")}
    return build_model(specification, priors, Design(ones, [ones]), EFFECTS, codes, groups, standard_error=ERRORS)


@pytest.fixture(scope="module")
def schools():
    return nuts.sample_posterior(eight_schools(), draws=600, tune=400, chains=2, random_state=3)


class Slopes:
    """Correlated varying intercept and categorical slope, weights: everything that has to find its way back."""

    def __init__(self, rng):
        n, self.n_groups = 120, 4
        code = rng.integers(0, self.n_groups, n)
        category = rng.integers(0, 3, n)
        self.X = np.column_stack([np.ones(n), rng.normal(50.0, 2.0, n), category == 1, category == 2, np.full(n, 4.0)])
        self.Z = self.X[:, [0, 2, 3]]
        effects = np.column_stack([rng.normal(0.0, 3.0, self.n_groups), rng.normal(0.0, 2.0, (self.n_groups, 2))])
        self.b = np.array([20.0, 3.0, 5.0, -6.0, 0.0])
        self.y = self.X @ self.b + np.sum(self.Z * effects[code], axis=1) + rng.normal(0.0, 1.0, n)
        self.weight = rng.integers(0, 4, n).astype(float)
        columns = ("Intercept", "x", "cat[b]", "cat[c]", "four")
        factor = FactorTerms(
            "my group", ("1", "cat[b]", "cat[c]"), ("1|my group", "cat|my group", "cat|my group"), ((0, 1, 2),)
        )
        self.specification = Specification("y", True, columns, ("Intercept", "x", "cat", "cat", "four"), (factor,))
        priors = default_priors(self.specification, moments_of(self.X, [self.Z], self.y, self.weight))
        codes, groups = {"my group": code}, {"my group": list("pqrs")}
        self.model = build_model(
            self.specification, priors, Design(self.X, [self.Z]), self.y, codes, groups, sample_weight=self.weight
        )


@pytest.fixture(scope="module")
def slopes():
    problem = Slopes(np.random.default_rng(5))
    problem.draws = nuts.sample_posterior(problem.model, draws=60, tune=200, chains=2, random_state=4)
    return problem


def test_eight_schools_with_known_tau_has_the_posterior_of_the_closed_form(schools):
    precision = 1 / (ERRORS**2 + TAU**2)
    variance = 1 / (1 / PRIOR_SD**2 + precision.sum())
    mean = variance * (precision @ EFFECTS)
    shrinkage = TAU**2 / (TAU**2 + ERRORS**2)
    effect = shrinkage * (EFFECTS - mean)
    effect_sd = np.sqrt(TAU**2 * (1 - shrinkage) + shrinkage**2 * variance)

    table = nuts.diagnose(schools)
    drawn = np.concatenate([schools.b, schools.factors[0].effects[..., 0]], axis=-1)
    # 4.5 Monte Carlo standard errors: nine numbers, one seed.
    error = 4.5 * table["mcse_mean"].to_numpy()
    assert np.all(np.abs(drawn.mean(axis=(0, 1)) - [mean, *effect]) < error)
    assert error.max() < 0.25 * TAU
    np.testing.assert_allclose(drawn.std(axis=(0, 1)), [np.sqrt(variance), *effect_sd], rtol=0.12)


def test_known_errors_and_a_fixed_sd_come_back_as_such(schools):
    assert np.all(np.isnan(schools.sigma))
    assert np.all(schools.factors[0].sds == TAU)
    assert schools.factors[0].correlation is None
    assert schools.factors[0].effects.shape == (2, 600, 8, 1)
    assert schools.divergent.shape == (2, 600)


def test_diagnostics_have_the_names_of_the_user_and_leave_out_what_is_constant(schools, slopes):
    table = nuts.diagnose(schools)
    assert list(table.index) == ["Intercept", *(f"1|school[{s}]" for s in "ABCDEFGH")]
    errors = ["mcse_mean", "mcse_sd", "mcse_eti95_lb", "mcse_eti95_ub"]
    assert list(table.columns) == ["r_hat", "ess_bulk", "ess_tail", *errors]
    for end, level in (("lb", 0.025), ("ub", 0.975)):
        wanted = array_stats.mcse(schools.b[..., 0], method="quantile", prob=level, chain_axis=0, draw_axis=1)
        assert table.loc["Intercept", f"mcse_eti95_{end}"] == pytest.approx(wanted)
    assert table["r_hat"].max() < 1.03
    names = nuts.diagnose(slopes.draws).index
    assert {"cat[b]", "sigma", "cat[c]|my group_sigma", "corr_my group[1, cat[b]]", "cat[b]|my group[s]"} <= set(names)
    assert "four" not in names


def test_diagnostics_look_at_a_bounded_number_of_groups(schools, monkeypatch):
    monkeypatch.setattr(nuts, "DIAGNOSED_GROUPS", 3)
    assert [name for name in nuts.diagnose(schools).index if "|" in name] == [f"1|school[{s}]" for s in "ADH"]


def test_columns_find_their_way_back_and_the_intercept_is_that_of_raw_columns(slopes):
    draws, X, Z = slopes.draws, slopes.X, slopes.Z
    factor = draws.factors[0]
    assert draws.b.shape == (2, 60, 5)
    assert np.all(draws.b[..., 4] == 0)
    mean = draws.b.mean(axis=(0, 1))
    # The slope of x is known to 0.05; x has mean 50, so a centred intercept would be 150 away.
    assert mean[1] == pytest.approx(slopes.b[1], abs=0.2)
    code = np.asarray(slopes.model.data["my group"].cat.codes)
    effects = factor.effects.mean(axis=(0, 1))
    fitted = X @ mean + np.sum(Z * effects[code], axis=1)
    present = slopes.weight > 0
    assert np.sqrt(np.mean((slopes.y - fitted)[present] ** 2)) < 1.2
    assert factor.sds.shape == (2, 60, 3)
    assert factor.correlation.shape == (2, 60, 3, 3)
    np.testing.assert_allclose(np.diagonal(factor.correlation, axis1=2, axis2=3), 1.0)
    assert draws.sigma.mean() == pytest.approx(1.0, rel=0.2)


def test_the_datatree_holds_the_same_draws_under_bambis_names(slopes):
    posterior = slopes.draws.datatree["posterior"]
    np.testing.assert_array_equal(posterior["Intercept"], slopes.draws.b[..., 0])
    np.testing.assert_array_equal(posterior["cat"].sel(cat_dim="cat[c]"), slopes.draws.b[..., 3])
    effects = slopes.draws.factors[0].effects
    one = posterior["cat|my group"].sel({"my group__factor_dim": "r", "cat|my group__expr_dim": "cat[b]"})
    np.testing.assert_array_equal(one, effects[:, :, 2, 1])
    np.testing.assert_array_equal(posterior["1|my group"].sel({"my group__factor_dim": "r"}), effects[:, :, 2, 0])
    corr = posterior["corr_my group"].sel({"corr_my group_dim": "1", "corr_my group_dim_bis": "cat[c]"})
    np.testing.assert_array_equal(corr, slopes.draws.factors[0].correlation[:, :, 0, 2])
    assert "mu" not in posterior


def test_the_same_seed_gives_the_same_draws_of_every_kind_of_seed():
    def intercepts(random_state):
        return nuts.sample_posterior(model, draws=20, tune=20, chains=2, random_state=random_state).b

    model = eight_schools()
    np.testing.assert_array_equal(intercepts(5), intercepts(np.int64(5)))
    assert np.any(intercepts(5) != intercepts(6))
    # of a generator an integer is drawn
    for make in (np.random.RandomState, np.random.default_rng):
        assert isinstance(engine_nuts._seed(make(5)), int)
        assert engine_nuts._seed(make(5)) == engine_nuts._seed(make(5)) != engine_nuts._seed(make(6))
    assert engine_nuts._seed(None) is None
    with pytest.raises(ValueError, match=r"random_state='five'"):
        engine_nuts._seed("five")


def test_chains_start_apart_in_the_units_of_y():
    model = eight_schools(**{"1|school": ("Normal", {"mu": 0.0, "sigma": ("HalfNormal", {"sigma": 10.0})})})
    model.build()
    starts = nuts._start_distributions(model.backend.model, model.hbsk_layout)
    from pymc import draw

    drawn = draw([starts["Intercept"], starts["1|school_sigma"], starts["1|school_offset"]], draws=200, random_seed=1)
    assert np.ptp(drawn[0]) == pytest.approx(2 * EFFECTS.std(), rel=0.1)
    assert 0 < drawn[1].min() < drawn[1].max() < 1.01 * EFFECTS.std()
    assert np.abs(drawn[2]).max() <= 1.0


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_nuts_follows_the_scale_of_y(rng, scale):
    n = 80
    code = np.arange(n) % 8
    ones = np.ones((n, 1))
    y = scale * (3.0 + rng.normal(size=8)[code] + 0.5 * rng.normal(size=n))
    factor = FactorTerms("g", ("1",), ("1|g",), ((0,),))
    specification = Specification("y", True, ("Intercept",), ("Intercept",), (factor,))
    priors = default_priors(specification, moments_of(ones, [ones], y))
    model = build_model(specification, priors, Design(ones, [ones]), y, {"g": code}, {"g": range(8)})
    draws = nuts.sample_posterior(model, draws=100, tune=300, chains=2, random_state=1)
    assert draws.sigma.mean() == pytest.approx(0.5 * scale, rel=0.3)
    assert draws.b.mean() == pytest.approx(y.mean(), abs=0.6 * scale)


def test_a_dense_mass_matrix_needs_a_centred_factor_few_effects_and_tuning_draws(monkeypatch):
    code = np.arange(24) % 3
    ones, y = np.ones((24, 1)), 100.0 * code + np.sin(np.arange(24))
    factor = FactorTerms("g", ("1",), ("1|g",), ((0,),))
    specification = Specification("y", True, ("Intercept",), ("Intercept",), (factor,))
    priors = default_priors(specification, moments_of(ones, [ones], y))

    def wanted(noncentered, tune):
        model = build_model(
            specification, priors, Design(ones, [ones]), y, {"g": code}, {"g": range(3)}, noncentered=noncentered
        )
        return nuts._wants_dense_metric(model.hbsk_layout, tune)

    assert wanted(None, tune=45)
    assert not wanted(None, tune=44)
    assert not wanted(True, tune=45)
    # 130 effects in 1000 tuning draws (Exam: 65 schools, two varying terms) left chains standing still.
    assert not wanted(None, tune=3 * 1000 // 130)
    monkeypatch.setattr(nuts, "EFFECTS_FOR_DENSE_METRIC", 2)
    assert not wanted(None, tune=45)


def test_silent_by_default_but_for_a_line_in_the_log(capfd, caplog):
    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.simplefilter("error")
        nuts.sample_posterior(eight_schools(), draws=10, tune=10, chains=1, random_state=1)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")
    # PyTensor may log while it is first imported
    (record,) = (record for record in caplog.records if not record.name.startswith("pytensor.configparser"))
    assert (record.name, record.levelname) == ("hbsk", "INFO")
    # the mean and eight effects
    assert record.getMessage() == "NUTS begins: 1 chains of 10 draws after 10 for tuning, 9 parameters."
    assert logging.getLogger("pymc").level != logging.CRITICAL + 1


def test_verbose_says_what_it_does(capfd, caplog):
    with caplog.at_level(logging.INFO), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nuts.sample_posterior(eight_schools(), draws=10, tune=10, chains=1, random_state=1, verbose=1)
    out, err = capfd.readouterr()
    assert "NUTS" in caplog.text
    assert out + err != ""


def test_sampler_options_reach_pymc_and_ours_are_refused(monkeypatch):
    import pymc

    seen = {}
    sample = pymc.sample
    monkeypatch.setattr(pymc, "sample", lambda **options: seen.update(options) or sample(**options))
    options = {"target_accept": 0.95, "init": "jitter+adapt_diag"}
    nuts.sample_posterior(eight_schools(), draws=10, tune=10, chains=1, random_state=1, sampler_options=options)
    assert (seen["target_accept"], seen["init"], seen["cores"]) == (0.95, "jitter+adapt_diag", 1)
    assert "initvals" not in seen
    for name, parameter in {"cores": "n_jobs", "draws": "draws", "random_seed": "random_state"}.items():
        with pytest.raises(ValueError, match=f"{name}.*{parameter}"):
            nuts.sample_posterior(eight_schools(), sampler_options={name: 1})
    with pytest.raises(ValueError, match=r"var_names.*to_bambi"):
        nuts.sample_posterior(eight_schools(), sampler_options={"var_names": []})


@pytest.mark.parametrize("given", [{}, {"compile_kwargs": {"backend": "jax"}}])
def test_chains_of_nutpie_start_in_the_units_of_the_data_too(slopes, monkeypatch, given):
    """Its own jitter of +-1 of the coefficient of a column with an sd of 35 left chains of counts standing still."""
    import pymc

    class SeenError(Exception):
        pass

    def sample(**options):
        raise SeenError(options)

    monkeypatch.setattr(pymc, "sample", sample)
    with pytest.raises(SeenError) as raised:
        nuts.sample_posterior(slopes.model, sampler_options={"nuts_sampler": "nutpie", **given})
    (seen,) = raised.value.args
    x = slopes.X[slopes.weight > 0, 1]
    lower, upper = (bound.data for bound in seen["initvals"]["x"].owner.inputs[-2:])
    assert upper == -lower == pytest.approx(slopes.model.hbsk_layout.scales["Intercept"] / x.std())
    jittered = {rv.name for rv in seen["compile_kwargs"].pop("jitter_rvs")}
    assert jittered.isdisjoint(seen["initvals"])
    assert seen["compile_kwargs"] == given.get("compile_kwargs", {})
    assert "init" not in seen


def test_options_of_the_user_are_not_written_into(monkeypatch):
    import pymc

    def sample(**options):
        options["nuts"]["target_accept"] = 0.8  # as PyMC does for samplers other than its own
        raise RuntimeError

    monkeypatch.setattr(pymc, "sample", sample)
    options = {"nuts": {"max_treedepth": 8}}
    with pytest.raises(RuntimeError):
        nuts.sample_posterior(eight_schools(), sampler_options=options)
    assert options == {"nuts": {"max_treedepth": 8}}


def test_bambis_own_fit_and_prediction_work_on_the_model(slopes):
    with engine_nuts.quiet(0):
        fitted = slopes.model.fit(draws=5, tune=5, chains=1, cores=1, random_seed=1, progressbar=False, quiet=True)
        slopes.model.predict(fitted)
    assert {"Intercept", "x", "cat", "sigma", "1|my group", "1|my group_sigma", "corr_my group"} <= set(
        fitted["posterior"].data_vars
    )
    assert fitted["posterior"]["mu"].shape == (1, 5, len(slopes.y))


# A log density in Python


COVARIANCE = np.array([[2.0, 1.2], [1.2, 1.0]])
MODE = np.array([1000.0, -5.0])


def normal(theta):
    step = np.linalg.solve(COVARIANCE, theta - MODE)
    return -0.5 * (theta - MODE) @ step, -step


def test_sampling_a_log_density_is_announced_in_the_log(caplog):
    with caplog.at_level(logging.INFO, logger="hbsk"):
        engine_nuts.sample_log_density(normal, MODE, np.eye(2), draws=5, tune=5, chains=1, random_state=2)
    assert [record.getMessage() for record in caplog.records] == [
        "NUTS begins: 1 chains of 5 draws after 5 for tuning, 2 parameters."
    ]


@pytest.mark.parametrize("scale", [np.linalg.cholesky(COVARIANCE), np.diag([1.0, 2.0])], ids=["hessian", "other"])
def test_a_normal_density_is_sampled_right(scale):
    draws = engine_nuts.sample_log_density(normal, MODE, scale, draws=800, tune=300, chains=2, random_state=2)
    assert draws.shape == (2, 800, 2)
    flat = draws.reshape(-1, 2)
    np.testing.assert_allclose(flat.mean(axis=0), MODE, atol=5 * np.sqrt(2.0 / 400))
    np.testing.assert_allclose(np.cov(flat.T), COVARIANCE, rtol=0.25)


def test_one_call_of_the_density_serves_value_and_gradient():
    calls = []

    def counted(theta):
        calls.append(theta)
        return normal(theta)

    from pytensor import function, grad
    from pytensor.compile.mode import Mode
    from pytensor.tensor import dvector

    from hbsk._engine.log_density_op import LogDensityOp

    theta = dvector()
    value, _ = LogDensityOp(counted)(theta)
    evaluate = function([theta], [value, grad(value, theta)], mode=Mode(linker="py", optimizer="fast_compile"))
    results = evaluate(MODE + 0.5)
    assert len(calls) == 1
    np.testing.assert_allclose(results[1], normal(MODE + 0.5)[1])


def test_where_the_density_is_not_finite_nuts_does_not_go():
    def half(theta):
        if theta[0] < 0:
            return np.nan, np.full(1, np.nan)
        return -theta[0], np.array([-1.0])

    draws = engine_nuts.sample_log_density(
        half, np.array([1.0]), np.eye(1) / 2, draws=800, tune=300, chains=2, random_state=2
    )
    assert draws.min() >= 0
    assert draws.mean() == pytest.approx(1.0, abs=0.25)
