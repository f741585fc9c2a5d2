"""Simulation-based calibration of PartialPoolingRegressor: settings, ranks, and an exact test of uniformity.

Parameters are drawn from their priors and data from the parameters; then the rank of every true value among draws of
its posterior is uniform, whatever the model (Talts, Betancourt, Simpson, Vehtari, Gelman 2018, arXiv:1804.06788), and
so is the rank of any function of parameters and data, such as the log likelihood, which sees what single parameters do
not (Modrak et al. 2023, Bayesian Analysis). Nothing here uses hbsk's own algebra: designs are written out by hand,
priors are drawn by NumPy, correlation matrices by rejection.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from hbsk import PartialPoolingRegressor

N_DRAWS = 399
# Coverages of intervals, by kind.
INTERVALS = {"prediction": (0.5, 0.8, 0.9, 0.95), "mean": (0.9,)}
# Points at which an ECDF is compared with the diagonal.
N_POINTS = 50


# Settings


@dataclass(frozen=True)
class Setting:
    """A model with every prior fixed, and the features of its rows.

    Parameters
    ----------
    name : str
    formula : str
    rows, new_rows : DataFrame
        Features and the group column `g`, for fit and for new observations; labels that `rows` lacks are new groups.
    common, varying : callable
        From such a frame to the columns that have common and varying coefficients, shape (n_rows, p) and (n_rows, q).
        An intercept is the first column.
    priors : dict
        In the estimator's form; common terms first, then varying ones, in the order of the columns.
    blocks : tuple of tuple of int
        Varying columns that are correlated with each other.
    standard_error : callable, optional
        From such a frame to the known sds of observations.
    """

    name: str
    formula: str
    rows: pd.DataFrame
    new_rows: pd.DataFrame
    common: Callable[[pd.DataFrame], np.ndarray]
    varying: Callable[[pd.DataFrame], np.ndarray]
    priors: dict
    blocks: tuple[tuple[int, ...], ...] = ()
    standard_error: Callable[[pd.DataFrame], np.ndarray] | None = None
    labels: np.ndarray = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "labels", np.unique(self.rows["g"]))

    def known_errors(self, frame):
        return None if self.standard_error is None else self.standard_error(frame)

    @property
    def varying_terms(self) -> list[str]:
        return [key for key in self.priors if key.endswith("|g") and not key.startswith("corr")]

    @property
    def common_terms(self) -> list[str]:
        return [key for key in self.priors if "|" not in key and key != "sigma"]


def normal(mu, sigma):
    return ("Normal", {"mu": mu, "sigma": sigma})


def group(family, **arguments):
    return ("Normal", {"mu": 0.0, "sigma": (family, arguments)})


def _frame(sizes, seed, new_groups=("new", "new", "other")):
    """Rows of groups of given sizes; new rows of the first, of the last and of new groups."""
    rng = np.random.default_rng(seed)
    labels = [f"g{j:02d}" for j in range(len(sizes))]
    g = np.repeat(labels, sizes)
    new = np.array([labels[0], labels[0], labels[-1], labels[len(labels) // 2], *new_groups])

    def features(n):
        # Means far from zero: the priors of common terms refer to centred columns, those of varying terms do not.
        return {"x": 0.7 + rng.normal(size=n), "w": -1.3 + 0.5 * rng.normal(size=n)}

    return pd.DataFrame(features(len(g)) | {"g": g}), pd.DataFrame(features(len(new)) | {"g": new})


def _ones(frame):
    return np.ones((len(frame), 1))


def _with(*names):
    return lambda frame: np.column_stack([np.ones(len(frame)), *(frame[name] for name in names)])


def make_settings() -> dict[str, Setting]:
    """Return the settings; every family of priors on sds that the marginal engine takes occurs in one of them."""
    rows, new_rows = _frame([2, 3, 4, 5, 6, 8, 9], 1)
    intercepts = Setting(
        "intercepts only", "y ~ x + (1 | g)", rows, new_rows, _with("x"), _ones,
        {"Intercept": normal(0.5, 1.5), "x": normal(-0.3, 1.0), "1|g": group("HalfNormal", sigma=1.0),
         "sigma": ("HalfStudentT", {"nu": 4.0, "sigma": 1.0})},
    )  # fmt: skip
    rows, new_rows = _frame([3, 4, 5, 6, 7, 8, 9, 10, 11], 2)
    slopes = Setting(
        "correlated slopes", "y ~ x + (x | g)", rows, new_rows, _with("x"), _with("x"),
        {"Intercept": normal(0.0, 2.0), "x": normal(0.4, 0.8), "1|g": group("HalfStudentT", nu=5.0, sigma=0.9),
         "x|g": group("Exponential", lam=1.4), "corr|g": ("LKJ", {"eta": 1.0}),
         "sigma": ("HalfNormal", {"sigma": 0.8})},
        ((0, 1),),
    )  # fmt: skip
    rows, new_rows = _frame([4, 5, 6, 7, 8, 9, 10, 12], 3)
    three = Setting(
        "three varying terms", "y ~ x + w + (x + w | g)", rows, new_rows, _with("x", "w"), _with("x", "w"),
        {"Intercept": normal(1.0, 1.0), "x": normal(0.0, 1.0), "w": normal(-0.5, 0.7),
         "1|g": group("Gamma", alpha=2.0, beta=2.5), "x|g": group("HalfNormal", sigma=0.7),
         "w|g": group("HalfNormal", sigma=1.1), "corr|g": ("LKJ", {"eta": 2.0}),
         "sigma": ("Gamma", {"alpha": 3.0, "beta": 4.0})},
        ((0, 1, 2),),
    )  # fmt: skip
    rows, new_rows = _frame([3, 4, 6, 7, 9, 11, 12], 4)
    independent = Setting(
        "independent blocks", "y ~ x + w + (1 | g) + (0 + x + w | g)", rows, new_rows, _with("x", "w"), _with("x", "w"),
        {"Intercept": normal(-1.0, 1.0), "x": normal(0.2, 0.6), "w": normal(0.0, 1.0),
         "1|g": group("InverseGamma", alpha=3.0, beta=1.5), "x|g": group("HalfNormal", sigma=0.8),
         "w|g": group("Exponential", lam=1.0), "corr|g": ("LKJ", {"eta": 1.5}),
         "sigma": ("InverseGamma", {"alpha": 4.0, "beta": 2.0})},
        ((1, 2),),
    )  # fmt: skip
    rows, new_rows = _frame([1] * 9, 5)
    errors = Setting(
        "known standard errors", "y ~ w + (1 | g)", rows, new_rows, _with("w"), _ones,
        {"Intercept": normal(0.0, 1.5), "w": normal(0.0, 1.0), "1|g": group("HalfCauchy", beta=0.6)},
        standard_error=lambda frame: 0.4 + np.abs(frame["x"].to_numpy()),
    )  # fmt: skip
    rows, new_rows = _frame([1, 1, 1, 2, 2, 3, 5, 20, 150, 1500], 6)
    imbalance = Setting(
        "extreme imbalance", "y ~ x + (x | g)", rows, new_rows, _with("x"), _with("x"),
        {"Intercept": normal(0.0, 1.0), "x": normal(0.0, 1.0), "1|g": group("Uniform", lower=0.0, upper=2.0),
         "x|g": group("HalfNormal", sigma=0.6), "corr|g": ("LKJ", {"eta": 1.0}),
         "sigma": ("Exponential", {"lam": 1.0})},
        ((0, 1),),
    )  # fmt: skip
    rows, new_rows = _frame([2, 2, 3], 7)
    three_groups = Setting(
        "three groups", "y ~ 0 + x + (0 + x | g)", rows, new_rows,
        lambda frame: frame[["x"]].to_numpy(), lambda frame: frame[["x"]].to_numpy(),
        {"x": normal(0.0, 1.0), "x|g": group("HalfCauchy", beta=0.5),
         "sigma": ("Uniform", {"lower": 0.1, "upper": 1.7})},
    )  # fmt: skip
    together = (intercepts, slopes, three, independent, errors, imbalance, three_groups)
    return {setting.name: setting for setting in together}


SETTINGS = make_settings()


# Drawing from the prior


def draw_sd(prior, rng, size=None):
    """Draw from a prior on an sd, in PyMC's parametrisations."""
    family, a = prior
    match family:
        case "HalfNormal":
            return a["sigma"] * np.abs(rng.standard_normal(size))
        case "HalfStudentT":
            return a["sigma"] * np.abs(rng.standard_t(a["nu"], size))
        case "HalfCauchy":
            return a["beta"] * np.abs(rng.standard_cauchy(size))
        case "Exponential":
            return rng.exponential(1 / a["lam"], size)
        case "Gamma":
            return rng.gamma(a["alpha"], 1 / a["beta"], size)
        case "InverseGamma":
            return a["beta"] / rng.gamma(a["alpha"], 1.0, size)
        case "Uniform":
            return rng.uniform(a["lower"], a["upper"], size)
    raise ValueError(family)


def draw_correlation(size, eta, rng):
    """Draw from LKJ(eta): its density is det^(eta - 1) on the correlation matrices, so that rejection will do."""
    row, column = np.tril_indices(size, -1)
    while True:
        matrix = np.eye(size)
        matrix[row, column] = matrix[column, row] = rng.uniform(-1, 1, len(row))
        if np.linalg.eigvalsh(matrix)[0] > 0 and rng.random() < np.linalg.det(matrix) ** (eta - 1):
            return matrix


@dataclass(frozen=True)
class Truth:
    """Parameters of one simulated data set; effects have a row for each label of `rows` and of `new_rows`."""

    coefficients: np.ndarray
    sigma: float
    group_sd: np.ndarray
    correlation: np.ndarray
    effects: np.ndarray


def draw_truth(setting: Setting, n_groups: int, rng: np.random.Generator) -> Truth:
    priors, q = setting.priors, len(setting.varying_terms)
    group_sd = np.array([draw_sd(priors[term][1]["sigma"], rng) for term in setting.varying_terms])
    correlation = np.eye(q)
    for block in setting.blocks:
        correlation[np.ix_(block, block)] = draw_correlation(len(block), priors["corr|g"][1]["eta"], rng)
    sigma = np.nan if setting.standard_error else draw_sd(priors["sigma"], rng)
    coefficients = np.array([rng.normal(p["mu"], p["sigma"]) for _, p in (priors[t] for t in setting.common_terms)])
    if setting.common_terms[0] == "Intercept":
        # The prior of the intercept is that at the means of the columns.
        coefficients[0] -= setting.common(setting.rows)[:, 1:].mean(axis=0) @ coefficients[1:]
    standard = rng.multivariate_normal(np.zeros(q), correlation, n_groups)
    return Truth(coefficients, sigma, group_sd, correlation, standard * group_sd)


def observe(setting: Setting, frame: pd.DataFrame, codes: np.ndarray, truth: Truth, rng: np.random.Generator):
    """Draw responses, and return them with their expectation."""
    mean = setting.common(frame) @ truth.coefficients
    mean += np.sum(setting.varying(frame) * truth.effects[codes], axis=1)
    errors = setting.known_errors(frame)
    return mean + (truth.sigma if errors is None else errors) * rng.normal(size=len(frame)), mean


# One fit


def rank_and_cover(
    setting: Setting, seed: int, intervals=INTERVALS, **changes
) -> tuple[dict[str, float], dict[tuple, float]]:
    """Fit one simulated data set.

    Parameters
    ----------
    setting : Setting
    seed : int
    intervals : dict
        Coverages of the intervals that are asked for, by kind.
    **changes : object
        Parameters of the estimator, to see how a wrong model is found out.

    Returns
    -------
    uniform : dict of str to float
        A number that is uniform on (0, 1) for every quantity: (rank + U) / (number of draws + 1).
    covered : dict of str to float
        Share of the new rows whose interval holds the truth, by kind of group and of interval, and coverage.
    """
    rng = np.random.default_rng([seed, len(setting.name)])
    labels = np.concatenate([setting.labels, np.setdiff1d(setting.new_rows["g"], setting.labels)])
    truth = draw_truth(setting, len(labels), rng)
    codes, new_codes = (np.searchsorted(labels, frame["g"]) for frame in (setting.rows, setting.new_rows))
    y, _ = observe(setting, setting.rows, codes, truth, rng)
    new_y, new_mean = observe(setting, setting.new_rows, new_codes, truth, rng)
    errors, new_errors = setting.known_errors(setting.rows), setting.known_errors(setting.new_rows)

    # the seed is for chains, where importance sampling is not reliable: one of 300 fits of three groups, wrong prior
    options = {"formula": setting.formula, "priors": setting.priors, "inference": "marginal", "random_state": seed}
    options |= changes
    estimator = PartialPoolingRegressor(**options).fit(setting.rows, y, standard_error=errors)
    draws = estimator._learnt.fitted.posterior.joint_draws(N_DRAWS, rng, [np.arange(len(setting.labels))])
    pairs = _parameters(setting, truth, draws) | _likelihoods(setting, truth, draws, y, codes, errors)
    sampled = estimator.sample_y(
        setting.new_rows, n_samples=N_DRAWS, standard_error=new_errors, random_state=np.random.default_rng([seed, 1])
    )
    pairs |= _new_observations(setting, new_y, sampled)
    uniform = {name: (np.sum(drawn < true) + rng.random()) / (N_DRAWS + 1) for name, (true, drawn) in pairs.items()}

    new = new_codes >= len(setting.labels)
    covered = {}
    values = {"mean": new_mean, "prediction": new_y}
    for kind, coverages in intervals.items():
        for coverage in coverages:
            options = {"coverage": coverage, "kind": kind, "standard_error": new_errors}
            low, high = estimator.predict_interval(setting.new_rows, **options).T
            hit = (low <= values[kind]) & (values[kind] <= high)
            covered["known", kind, coverage] = hit[~new].mean()
            covered["new", kind, coverage] = hit[new].mean()
    return uniform, covered


def _parameters(setting, truth, draws):
    """Pair true values with draws, by name."""
    pairs = {}
    if setting.standard_error is None:
        pairs["sigma"] = (truth.sigma, draws.variance.sigma)
    terms, group_sd, correlation = setting.varying_terms, draws.variance.group_sd[0], draws.variance.correlation[0]
    for k, term in enumerate(terms):
        pairs[f"sd {term}"] = (truth.group_sd[k], group_sd[:, k])
    for block in setting.blocks:
        for i, k in enumerate(block):
            for m in block[:i]:
                pairs[f"corr {terms[m]}, {terms[k]}"] = (truth.correlation[k, m], correlation[:, k, m])
    for k, term in enumerate(setting.common_terms):
        pairs[term] = (truth.coefficients[k], draws.common[:, k])
    effects = draws.effects[0]
    for j in (0, len(setting.labels) - 1):
        for k, term in enumerate(terms):
            pairs[f"{term}[{setting.labels[j]}]"] = (truth.effects[j, k], effects[:, j, k])
    return pairs


def _likelihoods(setting, truth, draws, y, codes, errors):
    """Pair the log likelihood, and the squared size of the effects, at the truth with those at the draws."""
    common, varying = setting.common(setting.rows), setting.varying(setting.rows)

    def log_likelihood(coefficients, effects, sigma):
        mean = coefficients @ common.T + np.einsum("snk,nk->sn", effects[:, codes], varying)
        sd = sigma[:, None] if errors is None else errors
        return np.sum(stats.norm.logpdf(y, mean, sd), axis=1)

    known = truth.effects[: len(setting.labels)]
    at_truth = log_likelihood(truth.coefficients[None], known[None], np.array([truth.sigma]))
    at_draws = log_likelihood(draws.common, draws.effects[0], draws.variance.sigma)
    pairs = {"log likelihood": (at_truth[0], at_draws)}
    for k, term in enumerate(setting.varying_terms):
        pairs[f"spread {term}"] = (np.sum(known[:, k] ** 2), np.sum(draws.effects[0][:, :, k] ** 2, axis=1))
    return pairs


def _new_observations(setting, new_y, sampled):
    """Pair new observations, and differences that see whether rows of a group share its effects."""
    g = setting.new_rows["g"].to_numpy()
    pairs = {f"y[{label}]": (new_y[i], sampled[i]) for i, label in enumerate(g) if label not in g[:i]}
    of_new = np.flatnonzero(g == "new")
    other = np.flatnonzero(g == "other")[0]
    for name, i, j in (("in a group", 0, 1), ("in a new group", *of_new), ("between new groups", of_new[0], other)):
        pairs[f"difference {name}"] = (new_y[i] - new_y[j], sampled[i] - sampled[j])
    return pairs


def calibrate(setting: Setting, seeds, **options) -> tuple[dict[str, np.ndarray], dict[tuple, np.ndarray]]:
    """Run `rank_and_cover` for all seeds: the same dicts, with arrays of shape (n_seeds,)."""
    results = [rank_and_cover(setting, seed, **options) for seed in seeds]
    return tuple(
        {name: np.array([result[part][name] for result in results]) for name in results[0][part]} for part in (0, 1)
    )


def coverage_error(hits: np.ndarray, coverage: float) -> float:
    """Return the standard error of a coverage; rows of one fit share its errors, so that fits are the units.

    At least that of four independent rows a fit: few fits may agree by chance.
    """
    return max(hits.std(ddof=1), 0.5 * np.sqrt(coverage * (1 - coverage))) / np.sqrt(len(hits))


# Uniformity


def evaluation_points(n: int) -> np.ndarray:
    n_points = min(N_POINTS, n)
    return np.arange(1, n_points) / n_points


def uniformity_p_value(values: np.ndarray) -> float:
    """Return the probability that the ECDF of as many uniform numbers strays as far from the diagonal at some point.

    The simultaneous test of Säilynoja, Bürkner and Vehtari (2022, Statistics and Computing 32): the least binomial
    tail probability over the evaluation points, referred to its exact law.
    """
    n, points = len(values), evaluation_points(len(values))
    counts = ecdf_counts(values)
    tails = np.minimum(stats.binom.cdf(counts, n, points), stats.binom.sf(counts - 1, n, points))
    # Counts whose own tails are all larger than the smallest one seen.
    lower = stats.binom.ppf(tails.min(), n, points).astype(int)
    lower = np.where(stats.binom.cdf(lower, n, points) <= tails.min() * (1 + 1e-9), lower + 1, lower)
    upper = stats.binom.isf(tails.min(), n, points).astype(int)
    upper = np.where(stats.binom.sf(upper - 1, n, points) <= tails.min() * (1 + 1e-9), upper - 1, upper)
    return max(0.0, 1.0 - probability_inside(n, points, lower, upper))


def ecdf_counts(values: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(values), evaluation_points(len(values)), side="right")


def envelope(n: int, probability: float) -> tuple[np.ndarray, np.ndarray]:
    """Return lower and upper ends of the simultaneous envelope of an ECDF of n uniform numbers, as shares."""
    points = evaluation_points(n)
    low, high = 1e-8, 0.5
    for _ in range(40):
        gamma = np.sqrt(low * high)
        lower, upper = stats.binom.ppf(gamma / 2, n, points), stats.binom.isf(gamma / 2, n, points)
        inside = probability_inside(n, points, lower.astype(int), upper.astype(int))
        low, high = (gamma, high) if inside >= probability else (low, gamma)
    lower, upper = stats.binom.ppf(low / 2, n, points), stats.binom.isf(low / 2, n, points)
    return lower / n, upper / n


def probability_inside(n: int, points: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    """Return the probability that the counts of n uniform numbers below each point are all within their bounds.

    The counts are a Markov chain: those between two points are binomial, given how many are left.
    """
    states, probability, before = np.array([0]), np.array([1.0]), 0.0
    for point, low, high in zip(points, lower, upper, strict=True):
        if low > high:
            return 0.0
        reached = np.arange(low, high + 1)
        share = (point - before) / (1 - before)
        step = stats.binom.pmf(reached[None, :] - states[:, None], (n - states)[:, None], share)
        states, probability, before = reached, probability @ step, point
    return float(probability.sum())
