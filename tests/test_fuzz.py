"""Hundreds of tiny problems over all priors that the engine takes: every answer is finite, or somebody says why not."""

import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from hbsk import PartialPoolingRegressor
from hbsk._engine.propriety import ImproperPosteriorError
from hbsk._posterior import integrated
from hbsk.exceptions import ConvergenceWarning

SD_PRIORS = [
    ("HalfNormal", {"sigma": 2.0}),
    ("HalfStudentT", {"nu": 4.0, "sigma": 1.0}),
    ("HalfStudentT", {"nu": 1.5, "sigma": 1.0}),
    ("HalfCauchy", {"beta": 1.0}),
    ("Exponential", {"lam": 1.0}),
    ("Gamma", {"alpha": 0.3, "beta": 0.5}),
    ("Gamma", {"alpha": 2.0, "beta": 0.1}),
    ("InverseGamma", {"alpha": 0.1, "beta": 0.1}),
    ("InverseGamma", {"alpha": 3.0, "beta": 1.0}),
    ("Uniform", {"lower": 0.0, "upper": 5.0}),
    ("Uniform", {"lower": 0.5, "upper": 1.5}),
    ("HalfFlat", {}),
    0.7,
]
N_PROBLEMS, AT_ONCE = 160, 20
# What is refused in our own words, since numbers would leave floating point or be rounding.
REFUSALS = ("leave floating point", "computes with", "lost in rounding", "sample_weight adds up to")


def problem(seed):
    """Return an estimator, and what to fit it on."""
    rng = np.random.default_rng([seed, 11])
    n_groups, n = int(rng.integers(1, 7)), int(rng.integers(2, 14))
    X = pd.DataFrame({"g": rng.integers(0, n_groups, n), "x": np.round(rng.normal(size=n), 1)})
    if rng.random() < 0.3:
        X["x"] = np.where(X["g"] == 0, X["x"], 0.0)  # varies in one group alone
    y = rng.normal() + rng.normal(size=n_groups)[X["g"]] + rng.choice([0.01, 1.0]) * rng.normal(size=n)
    slope = rng.random() < 0.5
    formula = rng.choice(["y ~ 1", "y ~ x", "y ~ 0 + x"] if slope else ["y ~ 1", "y ~ x"])
    varying = rng.choice(["(1 | g)", "(x | g)", "(x || g)", "(0 + x | g)"]) if slope else "(1 | g)"
    common = ("Flat", {}) if rng.random() < 0.5 else ("Normal", {"mu": 0.0, "sigma": 3.0})

    def sd_prior():
        return SD_PRIORS[rng.integers(len(SD_PRIORS))]

    priors = {"common": common, "group_specific": ("Normal", {"mu": 0.0, "sigma": sd_prior()})}
    known = rng.random() < 0.25
    if not known:
        priors["sigma"] = priors["group_specific"][1]["sigma"] if rng.random() < 0.3 else sd_prior()
    pooling = rng.choice(["partial", "partial", "partial", "complete", "none"])
    options = {"standard_error": rng.uniform(0.3, 2.0, n)} if known else {}
    if rng.random() < 0.2:
        options["sample_weight"] = rng.integers(1, 4, n).astype(float)
    return PartialPoolingRegressor(f"{formula} + {varying}", pooling=pooling, priors=priors), X, y, options


def scaled_problem(seed):
    """Return a problem whose y, errors, weights and x are far from the unit, by up to 200 powers of ten."""
    model, X, y, options = problem(seed)
    rng = np.random.default_rng([seed, 77])
    power = rng.choice([0, 0, 3, -3, 10, -10, 30, -30, 70, -70, 150, -200])
    y = y * 10.0**power
    if "standard_error" in options:
        of_errors = [power, power + rng.uniform(-6, 6), rng.uniform(-200, 200), power + rng.uniform(-5, 5, len(y))]
        options["standard_error"] = options["standard_error"] * 10.0 ** of_errors[rng.integers(4)]
    if rng.random() < 0.3:
        options["sample_weight"] = rng.uniform(0.1, 3, len(y)) * 10.0 ** rng.choice([0, 3, -3, 10, -30, 30, -100, 200])
    if rng.random() < 0.3:
        X = X.assign(x=X["x"] * 10.0 ** rng.choice([3, -3, 30, -30, 70, -70, 150, -200]))
    if rng.random() < 0.4:
        model.set_params(priors=None)
    return model, X, y, options


def answers(model, X, options):
    """Everything a user reads off, as arrays by name; sds and means that are documented as infinite may be so."""
    rows = pd.concat([X.iloc[:3], X.iloc[:2].assign(g=99)])
    error = {name: values[:5] for name, values in options.items() if name == "standard_error"}
    if error:
        error["standard_error"] = np.resize(error["standard_error"], len(rows))
    mean, std = model.predict(rows, return_std=True, **error)
    found = {"mean": mean, "std: may be infinite": std}
    found["interval"] = model.predict_interval(rows, coverage=0.9, **error)
    found["draws"] = model.sample_y(
        rows.iloc[-2:], n_samples=2, random_state=0, **{k: v[-2:] for k, v in error.items()}
    )
    table = model.summary()
    found["means: may be infinite"] = table["mean"]
    found["sds: may be infinite"], found["ends"] = table["sd"], table[["eti95_lb", "eti95_ub"]]
    if not error:
        found["sigma: may be infinite"] = model.sigma_
    if model.pooling == "partial":
        effects = model.group_effects()
        found["effects"] = effects[["mean", "eti95_lb", "eti95_ub", "shrinkage"]]
        found["sds of effects: may be infinite"] = effects["sd"]
        found["sds between groups: may be infinite"] = model.group_sd_["g"]
        found["correlations"] = model.group_correlation_["g"]
    return {name: np.asarray(values, dtype=float) for name, values in found.items()}


def unsaid(found, pooling):
    """Return names of answers that are NaN, or infinite where no infinity is documented."""
    names = []
    for name, values in found.items():
        if pooling == "none" and name in ("interval", "sds: may be infinite", "ends"):
            continue  # infinite or NaN where a group or the data do not identify it, which is documented
        bad = np.isnan(values) if "may be infinite" in name else ~np.isfinite(values)
        if bad.any():
            names.append(name)
    return names


@pytest.mark.parametrize("make", [problem, scaled_problem])
@pytest.mark.parametrize(
    "first", [pytest.param(first, marks=[pytest.mark.slow] * (first > 0)) for first in range(0, N_PROBLEMS, AT_ONCE)]
)
def test_no_answer_is_silently_nan(first, make, monkeypatch):
    # what importance sampling cannot reach is left as it is, with its warning, instead of sampled for minutes
    monkeypatch.setattr(integrated, "sample_model", lambda model, found, *_: found)
    failures, outcomes = [], {"answered": 0, "warned": 0, "improper": 0, "refused": 0}
    for seed in range(first, first + AT_ONCE):
        model, X, y, options = make(seed)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                model.fit(X, y, **options)
            except ImproperPosteriorError:
                outcomes["improper"] += 1
                continue
            except ValueError as error:
                if not any(reason in str(error) for reason in REFUSALS):
                    failures.append((seed, repr(error)))
                outcomes["refused"] += 1
                continue
            found = answers(model, X, options)
        if any(issubclass(each.category, RuntimeWarning) for each in caught):
            failures.append((seed, "RuntimeWarning", [str(each.message) for each in caught]))
        if any(issubclass(each.category, ConvergenceWarning) for each in caught):
            outcomes["warned"] += 1
            continue
        names = unsaid(found, model.pooling)
        if names:
            failures.append((seed, names))
        outcomes["answered"] += 1
    assert not failures, failures
    assert outcomes["answered"] > (15 if make is problem else 5), outcomes


# Cases that were NaN, against quadrature


def test_priors_without_moments_on_all_sds():
    """Six groups of two rows, InverseGamma(.1, .1) on sigma and tau: against a grid of both."""
    rng = np.random.default_rng(0)
    codes = np.repeat(np.arange(6), 2)
    y = rng.normal(size=6)[codes] + 0.5 * rng.normal(size=12)
    heavy = ("InverseGamma", {"alpha": 0.1, "beta": 0.1})
    priors = {"Intercept": ("Normal", {"mu": 0.0, "sigma": 3.0}), "1|g": ("Normal", {"mu": 0, "sigma": heavy})}
    model = PartialPoolingRegressor("y ~ 1 + (1 | g)", priors={**priors, "sigma": heavy})
    table = model.fit(pd.DataFrame({"g": codes}), y).summary()

    means = np.bincount(codes, y) / 2
    tau = np.exp(np.linspace(-8.0, 30.0, 1200))[:, None]
    sigma = np.exp(np.linspace(-5.0, 8.0, 500))[None, :]
    variance = tau**2 + sigma**2 / 2
    precision = 1 / 9 + 6 / variance
    mean = means.sum() / variance / precision
    log_density = -6 * np.log(sigma) - np.sum((y - means[codes]) ** 2) / (2 * sigma**2)
    log_density = log_density - 3 * np.log(variance) - 0.5 * np.log(precision)
    log_density -= 0.5 * (means @ means / variance - mean**2 * precision)
    log_density += stats.invgamma.logpdf(tau, 0.1, scale=0.1) + stats.invgamma.logpdf(sigma, 0.1, scale=0.1)
    weight = np.exp(log_density - log_density.max()) * tau * sigma  # steps are even on a log scale
    weight /= weight.sum()
    for name, values, variances in (
        ("Intercept", mean, 1 / precision),
        ("sigma", sigma, 0.0),
        ("1|g_sigma", tau, 0.0),
    ):
        average = np.sum(weight * values)
        assert table.loc[name, "mean"] == pytest.approx(average, rel=5e-3)
        spread = np.sqrt(np.sum(weight * ((values - average) ** 2 + variances)))
        assert table.loc[name, "sd"] == pytest.approx(spread, rel=3e-2)


# Of sigma, the sd of intercepts and that of slopes: mean, sd, ends of the 89 % interval by `importance_of_slopes`.
SDS_OF_SLOPES = {
    "sigma": (1.2524, 1.0325, 0.1076, 2.8767),
    "1|g_sigma": (6.4203, 2.6771, 3.4986, 11.0190),
    "x|g_sigma": (0.8803, 0.7347, 0.0840, 2.1177),
}


def six_pairs():
    """Six groups of two rows with a slope, where the answers of 8e24c3e were NaN."""
    rng = np.random.default_rng(9)
    codes = np.repeat(np.arange(6), 2)
    y = rng.normal(size=12) + (rng.normal(size=6) * rng.choice([0, 0.1, 1, 5]))[codes]
    return rng.normal(size=12), codes, y


def importance_of_slopes(n_points):
    """Points (log sigma, log tau_1, log tau_x, atanh rho) and their weights under the dense density of `six_pairs`."""
    x, codes, y = six_pairs()
    centred = np.column_stack([np.ones(12), x - x.mean()])  # priors refer to the means of the columns
    same = codes[:, None] == codes

    def log_density(points):
        """Every correlation is as likely as another under LKJ(1) at q = 2."""
        sigma, one, slope = sds = np.exp(np.clip(points[:, :3], -6.0, 12.0)).T  # their priors end there
        rho = np.tanh(points[:, 3])
        between = np.moveaxis(np.array([[one**2, rho * one * slope], [rho * one * slope, slope**2]]), 2, 0)
        covariance = same * (centred @ between @ centred.T) + 2.5**2 * centred @ centred.T
        root = np.linalg.cholesky(covariance + sigma[:, None, None] ** 2 * np.eye(12))
        white = np.linalg.solve(root, np.broadcast_to(y[:, None], (len(points), 12, 1)))[..., 0]
        log_likelihood = -0.5 * np.sum(white**2, axis=1) - np.log(np.diagonal(root, axis1=1, axis2=2)).sum(axis=1)
        priors = stats.invgamma.logpdf(sds, 0.1, scale=0.1).sum(axis=0) + np.log(sds).sum(axis=0)
        inside = np.all(np.exp(points[:, :3]) == sds.T, axis=1)
        return np.where(inside, log_likelihood + priors + np.log(1 - rho**2 + 1e-300), -np.inf)

    mean, spread = np.array([0.0, 1.5, -1.0, 0.0]), np.diag([1.0, 1.0, 4.0, 1.0])
    for n in (4096, 4096, n_points):  # Student's t with three degrees of freedom, moved to what it finds
        proposal = stats.multivariate_t(mean, spread, df=3, seed=7)
        points = proposal.rvs(n)
        log_weight = np.concatenate([log_density(part) for part in np.array_split(points, n // 4096)])
        log_weight -= proposal.logpdf(points)
        weight = np.exp(log_weight - log_weight.max())
        weight /= weight.sum()
        mean, spread = weight @ points, np.cov(points.T, aweights=weight)
    return points, weight


def test_priors_without_moments_on_the_sds_of_slopes():
    x, codes, y = six_pairs()
    heavy = ("InverseGamma", {"alpha": 0.1, "beta": 0.1})
    common = ("Normal", {"mu": 0.0, "sigma": 2.5})
    priors = {"Intercept": common, "x": common, "sigma": heavy}
    priors |= {name: ("Normal", {"mu": 0, "sigma": heavy}) for name in ("1|g", "x|g")}
    table = (
        PartialPoolingRegressor("x + (x | g)", priors=priors).fit(pd.DataFrame({"x": x, "g": codes}), y).summary(0.89)
    )
    for name, (mean, sd, lower, upper) in SDS_OF_SLOPES.items():
        row = table.loc[name]
        assert row["sd"] == pytest.approx(sd, rel=0.02)
        np.testing.assert_allclose(
            row[["mean", "eti89_lb", "eti89_ub"]].astype(float), [mean, lower, upper], atol=0.05 * sd
        )


@pytest.mark.slow
def test_importance_sampling_gives_the_sds_of_slopes():
    points, weight = importance_of_slopes(1_000_000)
    assert 1 / (weight @ weight) > 100_000
    for (mean, sd, *ends), values in zip(SDS_OF_SLOPES.values(), np.exp(points[:, :3]).T, strict=True):
        order = np.argsort(values)
        found = np.interp([0.055, 0.945], np.cumsum(weight[order]), values[order])
        np.testing.assert_allclose([weight @ values, *found], [mean, *ends], atol=0.015 * sd)


def test_flat_priors_keep_their_digits_where_sigma_is_large():
    """Two rows, a flat mean, HalfNormal(2) on sigma: its density is halfnormal(sigma) exp(-d^2 / 4 sigma^2) / sigma."""
    y = np.array([0.0, 1.0])
    priors = {"Intercept": ("Flat", {}), "sigma": ("HalfNormal", {"sigma": 2.0})}
    model = PartialPoolingRegressor("y ~ 1 + (1 | g)", pooling="complete", priors=priors)
    X = pd.DataFrame({"g": [0, 1]})

    def density(sigma, power):
        return sigma**power * np.exp(-(sigma**2) / 8 - 1 / (4 * sigma**2)) / sigma

    total, second = (integrate.quad(density, 0, np.inf, args=(power,))[0] for power in (0, 2))
    std = model.fit(X, y).predict(X, return_std=True)[1]
    np.testing.assert_allclose(std, np.sqrt(1.5 * second / total), rtol=1e-7)
