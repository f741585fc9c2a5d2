"""How much true group means differ beyond their sampling errors: what `heterogeneity` of the estimators returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri
from scipy.stats import chi2, norm

from hbsk._messages import interval_columns
from hbsk._shrinkage.linear_predictor import LinearPredictor
from hbsk._shrinkage.predictions import FittedMeans
from hbsk._shrinkage.random_effects import random_effects

_NAMES = {
    "reml": "REML",
    "ml": "ML",
    "dersimonian-laird": "DerSimonian-Laird",
    "paule-mandel": "Paule-Mandel",
    "given": "given",
}
_EMPTY = (
    "The interval of tau2 is empty, and 0 to 0 stands for it: the means lie closer together than their sampling errors "
    "let them, whatever tau2 is."
)
_GIVEN_TAU2 = "tau2 was given, not estimated."
_GIVEN_MEAN = "The mean was given, not estimated."
MODERATORS = "tau2, I2, H2 and Q are about what the columns leave; a new group's interval depends on its columns."


@dataclass(frozen=True, repr=False, eq=False)
class Heterogeneity:
    r"""Random-effects analysis: the pooled mean, and how much true group means differ around it.

    Returned by :meth:`hbsk.JamesSteinEstimator.heterogeneity` and :meth:`hbsk.PartialPoolingRegressor.heterogeneity`.
    The model is :math:`\bar y_j \sim N(\mu, v_j + \tau^2)`, with :math:`v_j` the sampling variance of a group mean; in
    meta-analysis groups are studies. Printing it shows all of it, `to_frame` makes a table of it.

    Of a `PartialPoolingRegressor` estimates are posterior means, standard errors posterior sds and intervals central
    posterior intervals; there are no tests, and `z`, `p`, `Q`, `df` and what goes with them are None.

    Attributes
    ----------
    n_groups : int
        Number k of groups.
    estimator : str
        How :math:`\tau^2` was found: "reml", "ml", "dersimonian-laird", "paule-mandel", "given" or "posterior".
    coverage : float
        Probability of the intervals.
    coefficients : DataFrame
        ``estimate``, ``se``, ``eti95_lb``, ``eti95_ub`` (named by `coverage`), ``z`` and ``p`` of the pooled mean, row
        "Intercept", and of the columns of a regression. Standard errors take :math:`\tau^2` as known.
    tau2, tau2_se, tau2_interval : float, float, tuple of float
        Variance (not sd) between groups, its standard error and its Q-profile interval.
    tau, tau_interval : float, tuple of float
        Its root, the sd between groups.
    I2, I2_interval : float, tuple of float
        :math:`\tau^2 / (\tau^2 + s^2)`, the share (not percentage) of variance between groups in all variance, with
        `typical_variance` :math:`s^2`.
    H2, H2_interval : float, tuple of float
        :math:`1 + \tau^2 / s^2`, all variance over sampling variance.
    typical_variance : float
        :math:`s^2 = (k - 1) \sum w_j / ((\sum w_j)^2 - \sum w_j^2)`, :math:`w_j = 1 / v_j`.
    prediction_interval : tuple of float or None
        Interval of the true mean of a new group, as metafor has it: :math:`\hat\mu \pm z \sqrt{\tau^2 + se^2}`. None
        for a regression, where it depends on the columns. `predict_interval` of the estimators is wider: it knows that
        :math:`\tau^2` is an estimate.
    Q, df, Q_p : float, int, float, or None
        Cochran's Q, the weighted sum of squares of the group means around their mean at :math:`\tau^2 = 0`, its degrees
        of freedom, and the probability of a larger one where groups do not differ.
    QM, QM_df, QM_p : float, int, float, or None
        Wald test of all columns of a regression.
    notes : tuple of str
        What else one should know, such as an interval that is empty.

    See Also
    --------
    hbsk.plotting.ForestDisplay : The picture of it.

    Examples
    --------
    >>> from hbsk import JamesSteinEstimator
    >>> from hbsk.datasets import load_bcg
    >>> bcg = load_bcg(as_frame=True)
    >>> meta = JamesSteinEstimator(between_group_variance="paule-mandel")
    >>> meta = meta.fit(None, bcg.target, groups=bcg.data["trial"], standard_error=bcg.standard_error)
    >>> analysis = meta.heterogeneity()
    >>> print(f"tau2 {analysis.tau2:.3f}, I2 {100 * analysis.I2:.1f} %, Q {analysis.Q:.1f}")
    tau2 0.318, I2 92.3 %, Q 152.2
    >>> print("{:.2f} to {:.2f}".format(*analysis.prediction_interval))
    -1.88 to 0.45
    """

    n_groups: int
    estimator: str
    coverage: float
    coefficients: pd.DataFrame
    tau2: float
    tau2_se: float
    tau2_interval: tuple[float, float]
    tau: float
    tau_interval: tuple[float, float]
    I2: float
    I2_interval: tuple[float, float]
    H2: float
    H2_interval: tuple[float, float]
    typical_variance: float
    prediction_interval: tuple[float, float] | None
    Q: float | None = None
    df: int | None = None
    Q_p: float | None = None
    QM: float | None = None
    QM_df: int | None = None
    QM_p: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def estimate(self) -> float:
        """Pooled mean; in a regression where all columns are 0."""
        return self._of_mean("estimate")

    @property
    def se(self) -> float:
        """Standard error of the pooled mean; 0 where the mean was given."""
        return self._of_mean("se")

    @property
    def z(self) -> float | None:
        """Estimate over its standard error; NaN where the mean was given."""
        return self._of_mean("z") if "z" in self.coefficients else None

    @property
    def p(self) -> float | None:
        """Two-sided probability of a larger z were the mean 0; NaN where the mean was given."""
        return self._of_mean("p") if "p" in self.coefficients else None

    @property
    def interval(self) -> tuple[float, float]:
        """Interval of the pooled mean."""
        low, high = interval_columns(self.coverage)
        return self._of_mean(low), self._of_mean(high)

    def _of_mean(self, column: str) -> float:
        return float(self.coefficients[column].iloc[0])

    def to_frame(self) -> pd.DataFrame:
        """Return all numbers as a table.

        Returns
        -------
        table : DataFrame
            Rows are the coefficients, "tau2", "tau", "I2", "H2", and where there are such "prediction", "Q" and "QM";
            columns ``estimate``, ``se``, ``eti95_lb``, ``eti95_ub`` (named by `coverage`), and for tests ``df`` and
            ``p``. NaN where a row has no such number.
        """
        ends = interval_columns(self.coverage)
        rows: dict[str, dict[str, Any]] = {
            "tau2": {"estimate": self.tau2, "se": self.tau2_se, **dict(zip(ends, self.tau2_interval, strict=True))},
            "tau": {"estimate": self.tau, **dict(zip(ends, self.tau_interval, strict=True))},
            "I2": {"estimate": self.I2, **dict(zip(ends, self.I2_interval, strict=True))},
            "H2": {"estimate": self.H2, **dict(zip(ends, self.H2_interval, strict=True))},
        }
        if self.prediction_interval is not None:
            rows["prediction"] = {"estimate": self.estimate, **dict(zip(ends, self.prediction_interval, strict=True))}
        if self.Q is not None:
            rows["Q"] = {"estimate": self.Q, "df": self.df, "p": self.Q_p}
        if self.QM is not None:
            rows["QM"] = {"estimate": self.QM, "df": self.QM_df, "p": self.QM_p}
        columns = ["estimate", "se", *ends, *(["df", "p"] if self.Q is not None else [])]
        table = pd.concat([self.coefficients, pd.DataFrame.from_dict(rows, orient="index", dtype=float)])
        return table.reindex(columns=columns)

    def __repr__(self) -> str:
        level = f"{100 * self.coverage:g} %"
        measures = pd.DataFrame(
            {
                "estimate": [_number(self.tau2), _number(self.tau), f"{100 * self.I2:.2f} %", _number(self.H2)],
                "se": [_number(self.tau2_se), "", "", ""],
                f"{level} interval": [
                    _between(self.tau2_interval),
                    _between(self.tau_interval),
                    f"{100 * self.I2_interval[0]:.2f} to {100 * self.I2_interval[1]:.2f} %",
                    _between(self.H2_interval),
                ],
            },
            index=[
                "tau2 (variance between groups)",
                "tau  (sd between groups)",
                "I2   (tau2 in all variance)",
                "H2   (all over sampling variance)",
            ],
        )
        of = "residual heterogeneity" if self.QM is not None else "heterogeneity"
        how = "posterior" if self.estimator == "posterior" else f"tau2: {_NAMES[self.estimator]}"
        parts = [f"Random effects of {self.n_groups} groups ({how})", measures.to_string()]
        if self.Q is not None:
            parts.append(f"Q({self.df}) = {_number(self.Q)}, p {_probability(self.Q_p)}  (test of {of})")
        if self.QM is not None:
            parts.append(f"QM({self.QM_df}) = {_number(self.QM)}, p {_probability(self.QM_p)}  (test of the columns)")
        shown = self.coefficients.map(_number)
        if "p" in shown:
            shown["p"] = [_probability(p).removeprefix("= ") for p in self.coefficients["p"]]
        parts.append(shown.to_string())
        if self.prediction_interval is not None:
            parts.append(f"{level} prediction interval of a new group's mean: {_between(self.prediction_interval)}")
        return "\n\n".join([*parts, *self.notes])


def _number(value: float) -> str:
    """Return a number as metafor prints it, unless four decimals say too little or too much."""
    if np.isnan(value):
        return ""
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e6 else f"{value:.4g}"


def _between(interval: tuple[float, float]) -> str:
    return f"{_number(interval[0])} to {_number(interval[1])}"


def _probability(p: float | None) -> str:
    if p is None or np.isnan(p):
        return ""
    return "< .0001" if p < 1e-4 else f"= {p:.4f}"


def analyse_means(
    means: np.ndarray, fitted: FittedMeans, names: Sequence[str], *, tau2: float, estimator: str, coverage: float
) -> Heterogeneity:
    """Make the random-effects analysis of the means of a fit, whatever they were shrunken by.

    Parameters
    ----------
    means : ndarray of shape (J,)
        Group means before shrinkage.
    fitted : FittedMeans
    names : sequence of str
        Columns of the target.
    tau2 : float
        Variance between groups.
    estimator : str
        How that was estimated, or "given".
    coverage : float

    Raises
    ------
    ValueError
        Where means and variances leave nothing to analyse.
    """
    n_groups, estimates_mean = len(means), fitted.n_target > 0
    points = np.empty((n_groups, 0)) if fitted.departures is None else fitted.departures.points
    basis = np.column_stack([np.ones(n_groups), points]) if estimates_mean else np.empty((n_groups, 0))
    within = fitted.within
    why_not = why_not_analysed(fitted)
    if why_not:
        raise ValueError(why_not)
    offset = np.zeros(basis.shape[1]) if within is None else within.slopes
    left = means - basis @ offset if estimates_mean else means - fitted.predictor.coef[0]
    precision = None
    if within is not None:
        precision = within.information / (1.0 if np.isinf(fitted.nu) else fitted.sigma2)
    found = random_effects(
        left,
        fitted.variances,
        basis,
        precision,
        tau2=tau2,
        estimator=estimator,
        nu=fitted.nu,
        coverage=coverage,
    )
    predictor = fitted.predictor
    if estimates_mean:
        predictor = LinearPredictor(predictor.directions, offset + found.coef, found.covariance)
    coefficients = _coefficients(predictor, names, coverage)
    mean, se = float(coefficients["estimate"].iloc[0]), float(coefficients["se"].iloc[0])
    has_slopes = basis.shape[1] > 1
    tests: dict[str, Any] = {"Q": found.q, "df": found.degrees, "Q_p": found.q_probability}
    if has_slopes:
        slopes = predictor.coef[1:]
        wald = float(slopes @ np.linalg.solve(predictor.covariance[1:, 1:], slopes))
        tests |= {"QM": wald, "QM_df": len(slopes), "QM_p": float(chi2.sf(wald, len(slopes)))}
    reach = ndtri(0.5 + coverage / 2) * np.sqrt(tau2 + se**2)
    typical, ends = found.typical_variance, found.tau2_interval
    notes = [
        note
        for note, applies in (
            (_EMPTY, found.is_empty),
            (_GIVEN_TAU2, estimator == "given"),
            (_GIVEN_MEAN, not estimates_mean),
            (MODERATORS, has_slopes),
        )
        if applies
    ]
    return Heterogeneity(
        n_groups,
        estimator,
        coverage,
        coefficients,
        tau2=tau2,
        tau2_se=found.tau2_error,
        tau2_interval=ends,
        tau=float(np.sqrt(tau2)),
        tau_interval=_mapped(np.sqrt, ends),
        I2=share_of(tau2, typical),
        I2_interval=_mapped(lambda value: share_of(value, typical), ends),
        H2=1.0 + tau2 / typical,
        H2_interval=_mapped(lambda value: 1.0 + value / typical, ends),
        typical_variance=typical,
        prediction_interval=None if has_slopes else (float(mean - reach), float(mean + reach)),
        **tests,
        notes=tuple(notes),
    )


def share_of(tau2: float, typical_variance: float) -> float:
    """Return I^2 = tau^2 / (tau^2 + s^2), which is 1 - 1 / H^2 (Higgins and Thompson 2002)."""
    return float(tau2 / (tau2 + typical_variance))


def _mapped(function, ends: tuple[float, float]) -> tuple[float, float]:
    return float(function(ends[0])), float(function(ends[1]))


def _coefficients(predictor: LinearPredictor, names: Sequence[str], coverage: float) -> pd.DataFrame:
    """Return the pooled mean and slopes with normal tests and intervals; a mean that was given has none."""
    estimate, variance = predictor.coefficients()
    se = np.sqrt(np.maximum(variance, 0.0))
    z = np.divide(estimate, se, out=np.full_like(se, np.nan), where=se > 0)
    reach = ndtri(0.5 + coverage / 2) * se
    low, high = interval_columns(coverage)
    columns = {"estimate": estimate, "se": se, low: estimate - reach, high: estimate + reach}
    return pd.DataFrame({**columns, "z": z, "p": 2.0 * norm.sf(np.abs(z))}, index=["Intercept", *names])


def degrees_between(fitted: FittedMeans) -> int:
    """Return J - r: J group means less the coefficients of the target that only they tell."""
    if not fitted.n_target:
        return len(fitted.theta)
    n_coefficients = len(fitted.predictor.coef) - (0 if fitted.within is None else fitted.within.rank)
    return len(fitted.theta) - n_coefficients


def why_not_analysed(fitted: FittedMeans) -> str:
    """Say why there is nothing to analyse, or nothing."""
    degrees = degrees_between(fitted)
    if not len(fitted.variances):
        return "There are no groups whose means could differ: the estimator was fitted without."
    if degrees < 1:
        return (
            f"heterogeneity needs more groups than coefficients of the target: {len(fitted.variances)} groups leave "
            f"{degrees} degrees of freedom for differences between them."
        )
    if not np.isfinite(fitted.variances).all():
        return (
            "heterogeneity needs the sampling variances of the group means, which rows without two of one group, or "
            "without degrees of freedom left within groups, do not tell. Pass standard_error= to fit if they are known."
        )
    if not fitted.variances.min() > 0:
        return (
            "heterogeneity compares differences between groups with their sampling errors, and there are none here: "
            "the rows of every group are equal. Pass standard_error= to fit if they are known."
        )
    return ""
