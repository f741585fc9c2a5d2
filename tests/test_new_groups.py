"""New groups under every prior of group effects that is accepted, against laws written here with SciPy.

Nothing is sampled by NUTS: the sampler is replaced by draws of the model's prior by PyMC (`prior_draws`), a posterior
whose hyper-parameters are known exactly or are independent draws of their prior. That the laws written here are PyMC's
is a test of its own.
"""

import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hbsk import PartialPoolingRegressor, from_json, to_json
from hbsk._bambi import sampling as nuts
from hbsk._engine.effect_laws import EffectLaw, moments_exist
from hbsk._model.priors import DISTRIBUTIONS
from hbsk.exceptions import ConvergenceWarning
from hbsk.model_selection import compare_estimators, loo

SIGMA, INTERCEPT = 0.3, 0.4
HALF = ("HalfNormal", {"sigma": 0.7})


def half_t(nu, sigma):
    """The law of |T|: SciPy has none of that name."""
    grid = stats.t(nu, scale=sigma)
    mean = 2 * sigma * np.sqrt(nu / np.pi) * np.exp(_log_gamma_ratio(nu)) / (nu - 1) if nu > 1 else np.inf
    return SimpleNamespace(
        logpdf=lambda u: np.log(2) + grid.logpdf(u),
        ppf=lambda v: grid.ppf((1 + np.asarray(v)) / 2),
        mean=lambda: mean,
        var=lambda: sigma**2 * nu / (nu - 2) - mean**2 if nu > 2 else np.inf,
    )


def _log_gamma_ratio(nu):
    from scipy.special import gammaln

    return gammaln((nu + 1) / 2) - gammaln(nu / 2)


def variance_of(law):
    """Infinite where SciPy says NaN: the Cauchy has none."""
    return np.inf if np.isnan(law.var()) else law.var()


# A prior of each family in each parametrisation, and its law. Moments that do not exist: Cauchy, HalfCauchy, StudentT
# and HalfStudentT with nu <= 2, InverseGamma and Pareto with alpha <= 2.
LAWS = {
    ("Normal", (("mu", 2.0), ("sigma", 1.2))): stats.norm(2.0, 1.2),
    ("Normal", (("mu", -1.0), ("tau", 4.0))): stats.norm(-1.0, 0.5),
    ("HalfNormal", (("sigma", 0.9),)): stats.halfnorm(scale=0.9),
    ("HalfNormal", (("tau", 4.0),)): stats.halfnorm(scale=0.5),
    ("HalfStudentT", (("nu", 4.5), ("sigma", 0.8))): half_t(4.5, 0.8),
    ("HalfStudentT", (("nu", 1.5), ("lam", 4.0))): half_t(1.5, 0.5),
    ("HalfCauchy", (("beta", 0.7),)): stats.halfcauchy(scale=0.7),
    ("Exponential", (("lam", 1.7),)): stats.expon(scale=1 / 1.7),
    ("Exponential", (("scale", 1.7),)): stats.expon(scale=1.7),
    ("Gamma", (("alpha", 2.5), ("beta", 1.7))): stats.gamma(2.5, scale=1 / 1.7),
    ("Gamma", (("mu", 1.2), ("sigma", 0.6))): stats.gamma(4.0, scale=0.3),
    ("InverseGamma", (("alpha", 3.5), ("beta", 1.7))): stats.invgamma(3.5, scale=1.7),
    ("InverseGamma", (("alpha", 1.7), ("beta", 1.1))): stats.invgamma(1.7, scale=1.1),
    ("InverseGamma", (("mu", 1.2), ("sigma", 0.6))): stats.invgamma(6.0, scale=6.0),
    ("Uniform", (("lower", -0.5), ("upper", 2.0))): stats.uniform(-0.5, 2.5),
    ("StudentT", (("nu", 3.0), ("mu", 0.5), ("sigma", 2.0))): stats.t(3.0, 0.5, 2.0),
    ("StudentT", (("nu", 2.0), ("mu", 0.5), ("lam", 4.0))): stats.t(2.0, 0.5, 0.5),
    ("Cauchy", (("alpha", 0.6), ("beta", 0.5))): stats.cauchy(0.6, 0.5),
    ("Laplace", (("mu", 0.5), ("b", 0.8))): stats.laplace(0.5, 0.8),
    ("Logistic", (("mu", 0.5), ("s", 0.6))): stats.logistic(0.5, 0.6),
    ("LogNormal", (("mu", 0.2), ("sigma", 0.5))): stats.lognorm(0.5, scale=np.exp(0.2)),
    ("LogNormal", (("mu", 0.2), ("tau", 4.0))): stats.lognorm(0.5, scale=np.exp(0.2)),
    ("TruncatedNormal", (("lower", -0.4), ("mu", 0.2), ("sigma", 1.2))): stats.truncnorm(-0.5, np.inf, 0.2, 1.2),
    ("TruncatedNormal", (("lower", -1.0), ("mu", 0.2), ("sigma", 1.2), ("upper", 0.8))): stats.truncnorm(
        -1.0, 0.5, 0.2, 1.2
    ),
    ("SkewNormal", (("alpha", 3.0), ("mu", 0.2), ("sigma", 1.2))): stats.skewnorm(3.0, 0.2, 1.2),
    ("Gumbel", (("beta", 0.8), ("mu", 0.4))): stats.gumbel_r(0.4, 0.8),
    ("Weibull", (("alpha", 1.5), ("beta", 0.8))): stats.weibull_min(1.5, scale=0.8),
    ("Wald", (("lam", 1.5), ("mu", 0.8))): stats.invgauss(0.8 / 1.5, scale=1.5),
    ("Beta", (("alpha", 2.0), ("beta", 1.5))): stats.beta(2.0, 1.5),
    ("Beta", (("mu", 0.3), ("sigma", 0.2))): stats.beta(0.3 * 4.25, 0.7 * 4.25),
    ("Pareto", (("alpha", 3.5), ("m", 0.5))): stats.pareto(3.5, scale=0.5),
    ("Pareto", (("alpha", 0.9), ("m", 0.5))): stats.pareto(0.9, scale=0.5),
}  # fmt: skip
NAMES = [f"{family}-{'-'.join(f'{k}={v}' for k, v in arguments)}" for family, arguments in LAWS]


def test_every_accepted_family_is_here():
    """A distribution that priors= takes and this file lacks would be untested: add its law."""
    here = {(family, frozenset(name for name, _ in arguments)) for family, arguments in LAWS}
    accepted = {(family, frozenset(parameters)) for family, choices in DISTRIBUTIONS.items() for parameters in choices}
    refused = {("Flat", frozenset()), ("HalfFlat", frozenset())}
    assert here | refused >= accepted


def test_the_laws_written_here_are_those_of_pymc():
    import pymc as pm
    from pytensor import function
    from pytensor.compile.mode import Mode

    points = [law.ppf(np.array([0.1, 0.45, 0.93])) for law in LAWS.values()]
    densities = [
        pm.logp(getattr(pm, family).dist(**dict(arguments)), point)
        for (family, arguments), point in zip(LAWS, points, strict=True)
    ]
    found = function([], densities, mode=Mode(linker="py", optimizer=None))()
    for name, law, point, density in zip(NAMES, LAWS.values(), points, found, strict=True):
        np.testing.assert_allclose(law.logpdf(point), density, rtol=1e-6, atol=1e-7, err_msg=name)


# --------------------------------------------------------------------------------------------------------------------
# Models whose hyper-parameters are known


def prior_draws(monkeypatch, n_draws):
    """Replace NUTS by independent draws of the model's prior, one chain of them."""

    def sample(pymc_model, variables, *_):
        import pymc as pm
        from pytensor.compile.mode import Mode
        from xarray import Dataset, DataTree

        with pymc_model:
            tree = pm.sample_prior_predictive(
                draws=n_draws,
                var_names=variables,
                random_seed=3,
                compile_kwargs={"mode": Mode(linker="py", optimizer="fast_compile")},
            )
        quiet = Dataset({"diverging": (("chain", "draw"), np.zeros((1, n_draws), dtype=bool))})
        return DataTree.from_dict({"posterior": tree["prior"].to_dataset(), "sample_stats": quiet})

    monkeypatch.setattr(nuts, "sample", sample)


def fit(model, X, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # one chain has no R-hat worth the name
        return model.fit(X, y)


def frame(rng, n_columns, n_groups=4):
    X = pd.DataFrame(rng.normal(size=(5 * n_groups, n_columns)), columns=[f"x{k}" for k in range(n_columns)])
    X["g"] = np.arange(len(X)) % n_groups
    return X, rng.normal(size=len(X))


@pytest.fixture(scope="module")
def every_family():
    """One model with a varying term for each prior, everything fixed."""
    X, y = frame(np.random.default_rng(1), len(LAWS))
    priors = {f"x{k}|g": (family, dict(arguments)) for k, (family, arguments) in enumerate(LAWS)}
    terms = " + ".join(f"(0 + x{k} | g)" for k in range(len(LAWS)))
    model = PartialPoolingRegressor(
        f"y ~ 1 + {terms}", priors=priors | {"Intercept": INTERCEPT, "sigma": SIGMA}, random_state=0
    )
    with pytest.MonkeyPatch.context() as patch:
        prior_draws(patch, 500)
        return fit(model, X, y)


@pytest.fixture(scope="module")
def new_rows():
    """For each term a row of a group of its own in which it alone counts."""
    rows = pd.DataFrame(np.eye(len(LAWS)), columns=[f"x{k}" for k in range(len(LAWS))])
    return rows.assign(g=100 + np.arange(len(LAWS)))


@pytest.fixture(scope="module")
def midpoints():
    """Quantiles of each law at 4,000 midpoints of their probability, (n_laws, 4000): some take SciPy long."""
    return np.array([law.ppf((np.arange(4000) + 0.5) / 4000) for law in LAWS.values()])


def predictive_cdf(u, at):
    """P(y < at) for y = INTERCEPT + u + noise, by the midpoint rule in the probability of u."""
    return np.array([stats.norm.cdf((q - INTERCEPT - u) / SIGMA).mean() for q in np.atleast_1d(at)])


def test_means_and_sds_of_new_groups_are_those_of_the_prior(every_family, new_rows):
    mean, std = every_family.predict(new_rows, return_std=True)
    for name, law, found, spread in zip(NAMES, LAWS.values(), mean, std, strict=True):
        # a symmetric law without a mean is predicted by its centre
        centre = law.median() if name.startswith("Cauchy") else law.mean()
        variance = variance_of(law)
        assert found == pytest.approx(INTERCEPT + centre, rel=1e-7), name
        if np.isfinite(variance):
            assert spread == pytest.approx(np.sqrt(variance + SIGMA**2), rel=1e-6), name
        else:
            assert np.isposinf(spread), name
    endless = [name for name, spread in zip(NAMES, std, strict=True) if np.isposinf(spread)]
    assert len(endless) == 6
    np.testing.assert_allclose(every_family.predict(new_rows), mean, rtol=1e-12)


def test_moments_that_do_not_exist_count_where_a_row_has_their_term_only(every_family, new_rows):
    rows = new_rows.iloc[[0, 0]].copy()
    rows.iloc[1, NAMES.index("Cauchy-alpha=0.6-beta=0.5")] = -1e-9
    mean, std = every_family.predict(rows, return_std=True)
    assert np.isfinite(std[0])
    assert np.isposinf(std[1])
    assert np.isfinite(mean).all()


def test_intervals_of_new_groups_have_their_probability(every_family, new_rows, midpoints):
    for coverage in (0.5, 0.95):
        low, high = every_family.predict_interval(new_rows, coverage=coverage).T
        for k, (name, u) in enumerate(zip(NAMES, midpoints, strict=True)):
            found = predictive_cdf(u, [low[k], high[k]])
            np.testing.assert_allclose(found, [(1 - coverage) / 2, (1 + coverage) / 2], atol=1e-3, err_msg=name)


def test_intervals_of_the_means_of_new_groups_are_quantiles_of_the_prior(every_family, new_rows):
    low, high = every_family.predict_interval(new_rows, coverage=0.8, kind="mean").T
    for k, (name, law) in enumerate(zip(NAMES, LAWS.values(), strict=True)):
        # the levels are 1 / 8,192 apart
        for end, level in ((low[k], 0.1), (high[k], 0.9)):
            assert law.ppf(level - 5e-4) <= end - INTERCEPT <= law.ppf(level + 5e-4), name


def test_draws_of_new_groups_have_the_distribution_of_the_prior(every_family, new_rows, midpoints):
    draws = every_family.sample_y(new_rows, n_samples=1000, random_state=2)
    for name, u, values in zip(NAMES, midpoints, draws, strict=True):
        found = predictive_cdf(u, np.quantile(values, [0.02, 0.2, 0.5, 0.8, 0.98]))
        # 5 sds of a share of 1,000 draws
        np.testing.assert_allclose(found, [0.02, 0.2, 0.5, 0.8, 0.98], atol=0.08, err_msg=name)


def test_rows_of_one_new_group_share_its_effect_and_other_new_groups_do_not(every_family, new_rows):
    k = NAMES.index("Laplace-b=0.8-mu=0.5") if "Laplace-b=0.8-mu=0.5" in NAMES else 18
    rows = new_rows.iloc[[k, k, k]].assign(g=[101, 101, 102])
    r = np.corrcoef(every_family.sample_y(rows, n_samples=4000, random_state=2))
    share = 2 * 0.8**2 / (2 * 0.8**2 + SIGMA**2)
    assert r[0, 1] == pytest.approx(share, abs=0.05)
    assert r[0, 2] == pytest.approx(0.0, abs=0.08)


def test_known_groups_beside_new_ones_are_as_ever(every_family, new_rows):
    known = new_rows.assign(g=np.arange(len(new_rows)) % 4)
    both = pd.concat([new_rows, known])
    for answer in (every_family.predict, every_family.predict_interval):
        np.testing.assert_allclose(answer(both)[len(new_rows) :], answer(known), rtol=1e-3, atol=1e-3)


def test_group_sds_are_those_of_the_laws(every_family):
    found = every_family.group_sd_["g"]
    expected = np.sqrt([variance_of(law) for law in LAWS.values()])
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert np.isinf(found).sum() == 6


def test_shrinkage_of_effects_that_are_not_normal_is_not_made_up(every_family):
    assert every_family.shrinkage_["g"].isna().all(axis=None)


def test_a_model_with_laws_goes_through_json(every_family, new_rows):
    again = from_json(to_json(every_family))
    np.testing.assert_array_equal(again.predict_interval(new_rows), every_family.predict_interval(new_rows))


# --------------------------------------------------------------------------------------------------------------------
# Hyper-parameters with priors


HYPER = {
    "1|g": ("Normal", {"mu": ("Normal", {"mu": 3.0, "sigma": 1.0}), "sigma": HALF}),
    "x0|g": ("Normal", {"mu": -2.0, "sigma": HALF}),
    "x1|g": ("StudentT", {"nu": ("Uniform", {"lower": 3.0, "upper": 9.0}), "mu": 0.5, "sigma": HALF}),
    "x2|g": ("Laplace", {"mu": ("Normal", {"mu": 1.0, "sigma": 0.5}), "b": HALF}),
    "x3|g": ("Normal", {"mu": 0.3, "tau": ("Uniform", {"lower": 1.0, "upper": 4.0})}),
    "x4|g": ("LogNormal", {"mu": ("Normal", {"mu": 0.0, "sigma": 0.3}), "sigma": 0.4}),
    "corr|g": 1.0,
    "Intercept": INTERCEPT,
    "sigma": SIGMA,
}


@pytest.fixture(scope="module")
def hyper():
    """Correlated Normal effects with means, and terms whose arguments have priors."""
    X, y = frame(np.random.default_rng(1), 5, n_groups=40)
    model = PartialPoolingRegressor(
        "y ~ 1 + (x0 | g) + (0 + x1 | g) + (0 + x2 | g) + (0 + x3 | g) + (0 + x4 | g)", priors=HYPER, random_state=0
    )
    with pytest.MonkeyPatch.context() as patch:
        prior_draws(patch, 1000)
        return fit(model, X, y)


def hyper_rows(rows):
    return pd.DataFrame(rows, columns=[f"x{k}" for k in range(5)]).assign(g=100 + np.arange(len(rows)))


def test_effects_of_new_groups_are_like_those_that_pymc_draws_for_known_ones(hyper):
    """The posterior is the prior here: effects of known groups are draws of the law of new ones, by PyMC."""
    rows = hyper_rows([*np.eye(5), np.zeros(5), [1.5, 0, 0, 0, 0]])
    effects = hyper._learnt.fitted.posterior.effects[0]
    Z = np.column_stack([np.ones(len(rows)), rows[[f"x{k}" for k in range(5)]]])
    reference = INTERCEPT + effects.reshape(-1, 6) @ Z.T  # 40,000 draws that share 1,000 hyper-parameters
    mean, std = hyper.predict(rows, return_std=True)
    np.testing.assert_allclose(mean, reference.mean(axis=0), atol=0.02)
    np.testing.assert_allclose(std, np.sqrt(reference.var(axis=0) + SIGMA**2), rtol=0.02)
    # means of the laws, by hand: E exp(m + s^2 / 2) of a LogNormal whose m is N(0, .3^2)
    alone = [3.0 - 2.0, 3.0 + 0.5, 3.0 + 1.0, 3.0 + 0.3, 3.0 + np.exp(0.3**2 / 2 + 0.4**2 / 2), 3.0, 3.0 - 3.0]
    np.testing.assert_allclose(mean, INTERCEPT + np.array(alone), atol=0.12)
    noisy = reference + SIGMA * np.random.default_rng(4).standard_normal(reference.shape)
    low, high = hyper.predict_interval(rows, coverage=0.9).T
    np.testing.assert_allclose(np.mean(noisy < low, axis=0), 0.05, atol=0.006)
    np.testing.assert_allclose(np.mean(noisy > high, axis=0), 0.05, atol=0.006)
    draws = hyper.sample_y(rows, n_samples=4000, random_state=5)
    np.testing.assert_allclose(np.mean(draws < low[:, None], axis=1), 0.05, atol=0.02)


def test_hyper_parameters_have_their_rows_in_every_table(hyper):
    table = hyper.summary()
    wanted = {"1|g_mu": 3.0, "1|g_sigma": 0.7 * np.sqrt(2 / np.pi), "x1|g_nu": 6.0, "x2|g_mu": 1.0, "x3|g_tau": 2.5}
    for name, mean in wanted.items():
        assert table.loc[name, "mean"] == pytest.approx(mean, abs=0.15), name
        assert name in hyper.diagnostics_.index
    assert {"x1|g_sigma", "x2|g_b", "x0|g_sigma", "x4|g_mu", "corr_g[1, x0]"} <= set(table.index)
    # fixed, or no argument of the law
    assert not {"x0|g_mu", "x2|g_sigma", "x3|g_sigma", "x4|g_sigma"} & set(table.index)
    assert table.loc["x1|g_sigma", "mean"] == pytest.approx(0.7 * np.sqrt(2 / np.pi), abs=0.05)


def test_hyper_parameters_are_in_the_datatree(hyper):
    posterior = hyper.to_datatree()["posterior"]
    assert {"1|g_mu", "1|g_sigma", "x1|g_nu", "x1|g_sigma", "x2|g_b", "x3|g_tau", "corr_g"} <= set(posterior.data_vars)
    assert float(posterior["1|g_mu"].mean()) == pytest.approx(3.0, abs=0.15)
    assert not {"x0|g_mu", "x2|g_sigma"} & set(posterior.data_vars)
    assert posterior["1|g"].shape == (1, 1000, 40)


@pytest.mark.parametrize(
    ("family", "arguments", "expected"),
    [
        ("StudentT", {"nu": ("Gamma", {"alpha": 2.0, "beta": 0.1}), "mu": 0.0}, (False, False)),
        ("StudentT", {"nu": ("Uniform", {"lower": 1.5, "upper": 9.0}), "mu": 0.0}, (True, False)),
        ("StudentT", {"nu": ("Uniform", {"lower": 2.1, "upper": 9.0}), "mu": 0.0}, (True, True)),
        ("InverseGamma", {"alpha": ("HalfNormal", {"sigma": 9.0}), "beta": 1.0}, (False, False)),
        # E exp(sigma^2 / 2) and E exp(2 sigma^2) over a HalfNormal(s): finite for s < 1 and s < 1/2
        ("LogNormal", {"mu": 0.0, "sigma": ("HalfNormal", {"sigma": 0.4})}, (True, True)),
        ("LogNormal", {"mu": 0.0, "sigma": ("HalfNormal", {"sigma": 0.7})}, (True, False)),
        ("LogNormal", {"mu": 0.0, "sigma": ("HalfCauchy", {"beta": 0.1})}, (False, False)),
        ("Laplace", {"mu": 0.0, "b": HALF}, (True, True)),
    ],
)
def test_a_moment_exists_only_if_it_does_at_every_value_that_an_argument_can_have(family, arguments, expected):
    """Draws of nu above 2 say nothing: E[nu / (nu - 2)] is infinite where the density of nu is positive at 2."""
    assert moments_exist(family, arguments) == expected
    drawn = {"nu": 5.0, "mu": 0.0, "sigma": 1.0, "alpha": 4.0, "beta": 1.0, "b": 1.0}
    law = EffectLaw(family, (0,), ("1|g",), {k: np.full((3, 1), v) for k, v in drawn.items()}, (), *expected)
    assert np.isfinite(law.sd()).all() == expected[1]


# --------------------------------------------------------------------------------------------------------------------
# Groups left out


@pytest.mark.parametrize("given", [("1|g", "x0|g"), ("x0|g",)], ids=["both", "slope"])
def test_leaving_a_group_out_of_a_model_with_a_prior_on_the_mean_given_its_draws(rng, monkeypatch, given):
    """log p(y_j | b, sigma, hyper) by a dense normal density at each draw; the posterior is the prior here."""
    from hbsk.model_selection._group_information import _problem, _scores
    from hbsk.model_selection._training_rows import read_training_rows_again

    X, y = frame(rng, 1, n_groups=3)
    X["x0"] += 5.0
    prior_draws(monkeypatch, 30)
    hyper = {"1|g": HYPER["1|g"], "x0|g": ("Normal", {"mu": ("Normal", {"mu": -2.0, "sigma": 1.0}), "sigma": HALF})}
    priors = {key: hyper[key] for key in given} | {"common": ("Normal", {"mu": 0.0, "sigma": 2.0}), "sigma": HALF}
    model = fit(PartialPoolingRegressor("y ~ x0 + (x0 | g)", priors=priors, random_state=0), X, y)
    posterior = model._learnt.fitted.posterior
    training = read_training_rows_again(model, X, y, None, None, "group", None, "loo")
    problem = _problem(training)
    found = _scores(problem).seen + problem.shift
    # priors may refer to a point of the column
    x = X["x0"] - model.priors_.get("centre|g", {}).get("x0", 0.0)
    means = {law.columns: law.arguments["mu"][:, 0] for law in posterior.laws[0]}
    for s in (0, 11, 29):
        sd, R = posterior.group_sd[0][s], posterior.correlation[0][s]
        mean = [means[(k,)][s] if (k,) in means else 0.0 for k in range(2)]
        for j in range(3):
            rows = X["g"] == j
            Z = np.column_stack([np.ones(rows.sum()), x[rows]])
            covariance = Z @ (np.outer(sd, sd) * R) @ Z.T + posterior.sigma[s] ** 2 * np.eye(len(Z))
            common = posterior.common[s, 0] + posterior.common[s, 1] * X.loc[rows, "x0"]
            density = stats.multivariate_normal(common + Z @ mean, covariance)
            assert found[s, j] == pytest.approx(density.logpdf(y[rows]), rel=1e-6)


def test_leaving_a_group_out_of_other_laws_is_refused_by_name_and_cross_validation_answers(rng, monkeypatch):
    X, y = frame(rng, 1, n_groups=3)
    prior_draws(monkeypatch, 200)
    priors = {"1|g": ("Laplace", {"mu": 0.5, "b": 0.8}), "Intercept": INTERCEPT, "sigma": SIGMA}
    model = PartialPoolingRegressor("y ~ 1 + (1 | g)", priors=priors, random_state=0)
    with pytest.raises(ValueError, match=r"prior of '1\|g' is Laplace.*GroupKFold"):
        loo(fit(model, X, y), X, y, unit="group")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        table = compare_estimators(
            {"laplace": model},
            X,
            y,
            groups=X["g"],
            cv={"new groups": _one_group_out(X)},
            scoring=["rmse", "log_score", "coverage", "width"],
        )
    assert np.isfinite(table["mean"]).all()


def _one_group_out(X):
    from sklearn.model_selection import PredefinedSplit

    return PredefinedSplit(np.where(X["g"] == 2, 0, -1))
