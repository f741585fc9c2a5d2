"""Simulation-based calibration of several grouping factors; `tests.calibration` has the test and the draws from priors.

Designs are written out by hand: effects are drawn for every label that rows of fit or new rows hold, and responses are
sums over the factors. Ranks are those of parameters, effects, the log likelihood, and of new observations of known and
new levels in every mixture; intervals cover the new ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from hbsk import PartialPoolingRegressor
from tests.calibration import coverage_error, draw_correlation, draw_sd, group, normal, uniformity_p_value

pytestmark = pytest.mark.slow

N_FITS, N_DRAWS = 300, 399
FALSE_ALARMS = 0.001
COVERAGES = (0.5, 0.9)
TOO_WIDE = "sd, too wide by 15 %, of"


@dataclass(frozen=True)
class Crossed:
    """A model of several factors with every prior fixed, its rows, and rows to predict.

    Parameters
    ----------
    formula : str
    rows, new_rows : DataFrame
        Labels are numbers from 0; those beyond the rows of fit are new.
    varying : dict of str to list of str
        Columns whose coefficients vary, by factor; "1" is the intercept. All of a factor's are correlated.
    priors : dict
    kinds : list of str
        What is known of each of the new rows.
    """

    formula: str
    rows: pd.DataFrame
    new_rows: pd.DataFrame
    varying: dict[str, list[str]]
    priors: dict
    kinds: list[str]


def columns_of(frame, names):
    return np.column_stack([np.ones(len(frame)) if name == "1" else frame[name] for name in names])


def three_factors():
    """Twelve, seven and five levels, rows of some of the pairs, levels of one row to a third of all rows."""
    rng = np.random.default_rng(1)
    n = 66
    share = {"a": np.arange(1, 13.0), "b": np.ones(7), "c": np.array([8.0, 6, 4, 2, 1])}
    rows = pd.DataFrame({name: rng.choice(len(p), n, p=p / p.sum()) for name, p in share.items()})
    for name, p in share.items():
        rows.loc[: len(p) - 1, name] = np.arange(len(p))  # each level once at least
    rows["x"] = 0.7 + rng.normal(size=n)
    seen = rows.loc[[3, 40]]
    absent = next(i for i in range(12) if not ((rows["a"] == i) & (rows["b"] == 6)).any())
    labels = [[absent, 6, 0], [5, 2, 5], [20, 3, 1], [20, 8, 4], [21, 8, 5]]
    new = pd.concat([seen, pd.DataFrame(labels, columns=["a", "b", "c"])], ignore_index=True)
    new["x"] = 0.7 + rng.normal(size=len(new))
    kinds = ["pair seen", "pair seen", "known, not together", "known and new", "known and new", "mostly new", "all new"]
    priors = {
        "Intercept": normal(0.5, 1.5),
        "x": normal(-0.3, 1.0),
        "1|a": group("HalfNormal", sigma=1.0),
        "1|b": group("Exponential", lam=1.4),
        "1|c": group("HalfStudentT", nu=5.0, sigma=0.9),
        "sigma": ("HalfStudentT", {"nu": 4.0, "sigma": 1.0}),
    }
    formula = "y ~ x + (1 | a) + (1 | b) + (1 | c)"
    return Crossed(formula, rows, new, {"a": ["1"], "b": ["1"], "c": ["1"]}, priors, kinds)


def slopes_of_two_factors():
    """Ten and six levels, an intercept and a slope on each, correlated."""
    rng = np.random.default_rng(2)
    n = 80
    rows = pd.DataFrame({"a": rng.integers(0, 10, n), "b": rng.integers(0, 6, n)})
    rows.loc[:9, "a"], rows.loc[:5, "b"] = np.arange(10), np.arange(6)
    labels = [[0, 0], [1, 1], [7, 5], [3, 9], [12, 2], [12, 9], [13, 9]]
    new = pd.DataFrame(labels, columns=["a", "b"])
    for frame in (rows, new):
        frame["x"], frame["w"] = 0.7 + rng.normal(size=len(frame)), -1.3 + 0.5 * rng.normal(size=len(frame))
    kinds = ["pair seen", "pair seen", "known, not together", "known and new", "known and new", "all new", "all new"]
    rows = rows[~((rows["a"] == 7) & (rows["b"] == 5))].reset_index(drop=True)
    priors = {
        "Intercept": normal(0.0, 1.5),
        "x": normal(0.4, 0.8),
        "w": normal(0.0, 0.7),
        "1|a": group("HalfNormal", sigma=1.0),
        "x|a": group("Gamma", alpha=2.0, beta=2.5),
        "corr|a": ("LKJ", {"eta": 1.0}),
        "1|b": group("Exponential", lam=1.2),
        "w|b": group("HalfNormal", sigma=1.1),
        "corr|b": ("LKJ", {"eta": 2.0}),
        "sigma": ("HalfNormal", {"sigma": 0.8}),
    }
    return Crossed("y ~ x + w + (x | a) + (w | b)", rows, new, {"a": ["1", "x"], "b": ["1", "w"]}, priors, kinds)


SETTINGS = {"three factors": three_factors(), "slopes of two factors": slopes_of_two_factors()}


def draw_truth(setting, rng):
    """Return common coefficients, sigma, and for each factor sds, correlation and effects of 30 levels."""
    priors, common = setting.priors, [key for key in setting.priors if "|" not in key and key != "sigma"]
    b = np.array([rng.normal(priors[key][1]["mu"], priors[key][1]["sigma"]) for key in common])
    # the prior of the intercept is that at the means of the columns
    b[0] -= setting.rows[common[1:]].mean().to_numpy() @ b[1:]
    sigma, by_factor = draw_sd(priors["sigma"], rng), {}
    for factor, names in setting.varying.items():
        sd = np.array([draw_sd(priors[f"{name}|{factor}"][1]["sigma"], rng) for name in names])
        correlation = np.eye(len(names))
        if len(names) > 1:
            correlation = draw_correlation(len(names), priors[f"corr|{factor}"][1]["eta"], rng)
        effects = rng.multivariate_normal(np.zeros(len(names)), correlation, 30) * sd
        by_factor[factor] = sd, correlation, effects
    return common, b, sigma, by_factor


def expectation(setting, frame, common, b, effects):
    """Return means of rows, (.., n_rows), for coefficients (.., p) and effects (.., n_levels, q) by factor."""
    mean = b @ columns_of(frame, ["1", *common[1:]]).T
    for factor, names in setting.varying.items():
        of_rows = effects[factor][..., frame[factor].to_numpy(), :]
        mean = mean + np.sum(of_rows * columns_of(frame, names), axis=-1)
    return mean


def rank_and_cover(setting, seed, spoil=None):
    """Fit one simulated data set; return ranks on (0, 1) by quantity, and hits by kind of row, of interval, coverage.

    ``spoil`` changes the response before the fit, to see how a wrong engine is found out.
    """
    rng = np.random.default_rng([seed, len(setting.formula)])
    common, b, sigma, truth = draw_truth(setting, rng)
    of_levels = {factor: effects for factor, (_, _, effects) in truth.items()}
    y = expectation(setting, setting.rows, common, b, of_levels) + sigma * rng.normal(size=len(setting.rows))
    new_mean = expectation(setting, setting.new_rows, common, b, of_levels)
    new_y = new_mean + sigma * rng.normal(size=len(new_mean))

    priors = setting.priors | (spoil or {})
    model = PartialPoolingRegressor(setting.formula, priors=priors, inference="marginal", random_state=seed)
    model.fit(setting.rows, y)
    counts = {factor: len(labels) for factor, labels in model.groups_.items()}
    draws = model._learnt.fitted.posterior.joint_draws(N_DRAWS, rng, [np.arange(n) for n in counts.values()])
    drawn = dict(zip(counts, draws.effects, strict=True))
    known = {factor: of_levels[factor][:n] for factor, n in counts.items()}

    pairs = {"sigma": (sigma, draws.variance.sigma)}
    pairs |= {name: (b[k], draws.common[:, k]) for k, name in enumerate(common)}
    for f, (factor, names) in enumerate(setting.varying.items()):
        sd, correlation, _ = truth[factor]
        for k, name in enumerate(names):
            pairs[f"sd {name}|{factor}"] = sd[k], draws.variance.group_sd[f][:, k]
            if name != "1":
                pairs[f"{TOO_WIDE} {name}|{factor}"] = sd[k], 1.15 * draws.variance.group_sd[f][:, k]
            pairs[f"spread {name}|{factor}"] = np.sum(known[factor][:, k] ** 2), np.sum(drawn[factor][:, :, k] ** 2, 1)
            for j in (0, counts[factor] - 1):
                pairs[f"{name}|{factor}[{j}]"] = known[factor][j, k], drawn[factor][:, j, k]
        if len(names) > 1:
            pairs[f"corr {factor}"] = correlation[0, 1], draws.variance.correlation[f][:, 0, 1]
    at_draws = expectation(setting, setting.rows, common, draws.common, drawn)
    at_truth = expectation(setting, setting.rows, common, b, known)
    densities = stats.norm.logpdf(y, at_draws, draws.variance.sigma[:, None]).sum(axis=1)
    pairs["log likelihood"] = stats.norm.logpdf(y, at_truth, sigma).sum(), densities
    sampled = model.sample_y(setting.new_rows, n_samples=N_DRAWS, random_state=np.random.default_rng([seed, 1]))
    pairs |= {f"y[{i}], {kind}": (new_y[i], sampled[i]) for i, kind in enumerate(setting.kinds)}
    # the last rows share a new level of a factor
    pairs["difference"] = new_y[-1] - new_y[-2], sampled[-1] - sampled[-2]
    uniform = {name: (np.sum(of < true) + rng.random()) / (N_DRAWS + 1) for name, (true, of) in pairs.items()}

    covered = {}
    for kind, values in (("mean", new_mean), ("prediction", new_y)):
        for coverage in COVERAGES:
            low, high = model.predict_interval(setting.new_rows, coverage=coverage, kind=kind).T
            hit = pd.Series((low <= values) & (values <= high)).groupby(setting.kinds).mean()
            covered |= {(rows, kind, coverage): share for rows, share in hit.items()}
    return uniform, covered


def calibrate(setting, spoil=None):
    results = [rank_and_cover(setting, seed, spoil) for seed in range(N_FITS)]
    return tuple(
        {name: np.array([result[part][name] for result in results]) for name in results[0][part]} for part in (0, 1)
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_ranks_are_uniform_and_intervals_cover(name):
    uniform, covered = calibrate(SETTINGS[name])
    p_values = {quantity: uniformity_p_value(values) for quantity, values in uniform.items()}
    wrong = [p_values.pop(quantity) for quantity in uniform if quantity.startswith(TOO_WIDE)]
    assert max(wrong, default=0.0) < FALSE_ALARMS  # it would be found out
    worst = min(p_values, key=p_values.get)
    assert p_values[worst] > FALSE_ALARMS / len(p_values), (worst, p_values[worst])
    assert np.mean(np.array(list(p_values.values())) < 0.05) < 0.25, p_values
    for (rows, kind, coverage), hits in covered.items():
        assert abs(hits.mean() - coverage) < 4 * coverage_error(hits, coverage), (rows, kind, coverage, hits.mean())


def test_a_wrong_prior_of_one_factor_is_found_out():
    """Of the factor with five levels, a third as wide as the true one."""
    uniform, _ = calibrate(SETTINGS["three factors"], {"1|c": group("HalfStudentT", nu=5.0, sigma=0.3)})
    assert uniformity_p_value(uniform["sd 1|c"]) < FALSE_ALARMS / len(uniform)
