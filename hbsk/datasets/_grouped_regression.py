"""Grouped regression data made up from a known truth."""

from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from sklearn.utils import Bunch, check_random_state


def make_grouped_regression(
    n_groups: int = 20,
    n_per_group: int | Sequence[int] = 10,
    n_features: int = 1,
    *,
    max_per_group: int | None = None,
    intercept: float = 0.0,
    coef: ArrayLike | None = None,
    group_sd: float | ArrayLike = 1.0,
    group_correlation: float | ArrayLike = 0.0,
    residual_sd: float = 1.0,
    shuffle: bool = True,
    as_frame: bool = False,
    return_parameters: bool = False,
    random_state: int | np.random.RandomState | None = None,
) -> tuple:
    r"""Make a regression problem whose rows fall into groups with their own intercepts and slopes.

    Row i of group j has the response

    .. math:: y_i = \alpha + x_i' \beta + z_i' u_j + e_i, \quad u_j \sim N(0, \Sigma), \quad e_i \sim N(0, \sigma^2)

    where x holds independent standard normal features and z the constant 1 and the first features, as many as
    ``group_sd`` has further entries.

    Parameters
    ----------
    n_groups : int, default=20
        Number of groups.
    n_per_group : int or sequence of int of length n_groups, default=10
        Number of rows in each group: one number for all, or one for each group.
    n_features : int, default=1
        Number of features, the group column not counted. May be 0.
    max_per_group : int, default=None
        If given, group sizes are unequal: drawn between ``n_per_group`` (then one number) and ``max_per_group``, both
        included, uniformly on the log scale, so that small groups are common and large ones rare.
    intercept : float, default=0.0
        The common intercept :math:`\alpha`.
    coef : float or array-like of shape (n_features,), default=None
        The common coefficients :math:`\beta`; one number stands for all. By default drawn from a standard normal.
    group_sd : float or array-like of shape (n_varying,), default=1.0
        Standard deviations between groups: of the intercept, then of the slopes of the first, second... feature.
        One number means that only the intercept varies. Zeros are allowed.
    group_correlation : float or array-like of shape (n_varying, n_varying), default=0.0
        Correlation between a group's intercept and slopes: one number for every pair, or the whole matrix.
    residual_sd : float, default=1.0
        Standard deviation :math:`\sigma` of a row around the mean of its group. Zero is allowed.
    shuffle : bool, default=True
        If True, rows come in random order; else group by group.
    as_frame : bool, default=False
        If True, ``X`` is a DataFrame with the columns ``group``, ``x0``, ``x1``, ... and ``y`` a Series.
    return_parameters : bool, default=False
        If True, the truth is returned as well.
    random_state : int, RandomState instance or None, default=None
        Seed of the random numbers. Pass an int for the same data at every call.

    Returns
    -------
    X : ndarray of shape (n_samples, 1 + n_features) or DataFrame
        First column: the label of the group, 0 to ``n_groups - 1``. Further columns: the features.
    y : ndarray of shape (n_samples,) or Series
        The response.
    parameters : :class:`~sklearn.utils.Bunch`
        The truth, only if ``return_parameters`` is True.

        intercept : float
            As given.
        coef : ndarray of shape (n_features,)
            Common coefficients.
        residual_sd : float
            As given.
        group_sd : ndarray of shape (n_varying,)
            Standard deviations between groups.
        group_correlation : ndarray of shape (n_varying, n_varying)
            Correlations between varying terms.
        group_effects : ndarray of shape (n_groups, n_varying)
            Deviations :math:`u_j` of the intercept and slopes of each group from the common ones.
        n_per_group : ndarray of shape (n_groups,), dtype int64
            Number of rows of each group.

    See Also
    --------
    sklearn.datasets.make_regression : The same without groups.

    Examples
    --------
    >>> from hbsk.datasets import make_grouped_regression
    >>> X, y = make_grouped_regression(3, n_per_group=2, as_frame=True, shuffle=False, random_state=0)
    >>> X.join(y).round(2)
       group    x0     y
    0      0  1.87  3.84
    1      0 -0.98  0.13
    2      1  0.95  3.42
    3      1 -0.15  0.83
    4      2 -0.10  2.50
    5      2  0.41  3.30

    Correlated intercepts and slopes in groups of 2 to 200 rows, with the truth:

    >>> X, y, truth = make_grouped_regression(
    ...     50, 2, max_per_group=200, group_sd=[1.0, 0.5], group_correlation=-0.4,
    ...     return_parameters=True, random_state=0,
    ... )
    >>> truth.group_effects.shape, int(truth.n_per_group.min()), int(truth.n_per_group.max())
    ((50, 2), 2, 181)
    >>> X.shape == (truth.n_per_group.sum(), 2)
    True
    """
    n_groups = _check_count("n_groups", n_groups, 1)
    n_features = _check_count("n_features", n_features, 0)
    rng = check_random_state(random_state)
    sizes = _group_sizes(n_groups, n_per_group, max_per_group, rng)
    sd = _check_group_sd(group_sd, n_features)
    correlation = _check_correlation(group_correlation, len(sd))
    intercept = _check_number("intercept", intercept)
    residual_sd = _check_number("residual_sd", residual_sd, minimum=0.0)
    coefficients = _coefficients(coef, n_features, rng)

    effects = rng.standard_normal((n_groups, len(sd))) @ _square_root(correlation) * sd
    codes = np.repeat(np.arange(n_groups), sizes)
    if shuffle:
        codes = rng.permutation(codes)
    features = rng.standard_normal((len(codes), n_features))
    varying = np.column_stack([np.ones(len(codes)), features[:, : len(sd) - 1]])
    mean = intercept + features @ coefficients + np.einsum("ik,ik->i", varying, effects[codes])
    y = mean + residual_sd * rng.standard_normal(len(codes))

    data: Any
    if as_frame:
        data = pd.DataFrame(features, columns=[f"x{k}" for k in range(n_features)])
        data.insert(0, "group", codes)
        y = pd.Series(y, name="y")
    else:
        data = np.column_stack([codes, features])
    if not return_parameters:
        return data, y
    truth = Bunch(
        intercept=intercept,
        coef=coefficients,
        residual_sd=residual_sd,
        group_sd=sd,
        group_correlation=correlation,
        group_effects=effects,
        n_per_group=sizes,
    )
    return data, y, truth


def _group_sizes(
    n_groups: int, n_per_group: int | Sequence[int], max_per_group: int | None, rng: np.random.RandomState
) -> np.ndarray:
    """Return the number of rows of each group, checked or drawn."""
    if max_per_group is not None:
        smallest = _check_count("n_per_group", n_per_group, 1)
        largest = _check_count("max_per_group", max_per_group, smallest)
        # Half a row on either side gives the smallest and the largest size their full share after rounding.
        log_sizes = rng.uniform(np.log(smallest - 0.5), np.log(largest + 0.5), n_groups)
        return np.clip(np.rint(np.exp(log_sizes)), smallest, largest).astype(np.int64)
    if not isinstance(n_per_group, Iterable) or isinstance(n_per_group, str):
        return np.full(n_groups, _check_count("n_per_group", n_per_group, 1), dtype=np.int64)
    sizes = [_check_count("n_per_group", size, 1) for size in n_per_group]
    if len(sizes) != n_groups:
        raise ValueError(
            f"n_per_group has {len(sizes)} entries for n_groups={n_groups} groups. "
            "Pass one number for all groups or one for each."
        )
    return np.asarray(sizes, dtype=np.int64)


def _coefficients(coef: ArrayLike | None, n_features: int, rng: np.random.RandomState) -> np.ndarray:
    """Return the common coefficients, checked or drawn."""
    if coef is None:
        return rng.standard_normal(n_features)
    coefficients = _check_numbers("coef", coef)
    if coefficients.ndim == 0:
        return np.full(n_features, coefficients)
    if coefficients.shape != (n_features,):
        raise ValueError(
            f"coef has shape {coefficients.shape} for n_features={n_features}. "
            "Pass one number for all features, one for each, or None to have them drawn."
        )
    return coefficients


def _check_group_sd(group_sd: float | ArrayLike, n_features: int) -> np.ndarray:
    """Return the standard deviations between groups as an array of at least one entry."""
    sd = np.atleast_1d(_check_numbers("group_sd", group_sd))
    if sd.ndim != 1 or not 1 <= len(sd) <= 1 + n_features:
        raise ValueError(
            f"group_sd has shape {sd.shape} for n_features={n_features}. Pass one number for the intercept, followed "
            f"by one for each varying slope, at most {1 + n_features} in all."
        )
    if (sd < 0).any():
        raise ValueError(f"group_sd={group_sd!r} has a negative entry. Pass standard deviations, zero or more.")
    return sd


def _check_correlation(group_correlation: float | ArrayLike, n_varying: int) -> np.ndarray:
    """Return the correlation matrix of the varying terms."""
    given = _check_numbers("group_correlation", group_correlation)
    if given.ndim == 0:
        correlation = np.full((n_varying, n_varying), float(given))
        np.fill_diagonal(correlation, 1.0)
    else:
        correlation = given
    if (
        correlation.shape != (n_varying, n_varying)
        or not np.allclose(correlation, correlation.T)
        or not np.allclose(np.diagonal(correlation), 1.0)
        or np.linalg.eigvalsh(correlation).min() < -1e-10
    ):
        raise ValueError(
            f"group_correlation={group_correlation!r} is no correlation matrix of {n_varying} varying terms. Pass one "
            "number that all pairs can have together, or a symmetric matrix with ones on the diagonal and no negative "
            "eigenvalue."
        )
    return correlation


def _square_root(matrix: np.ndarray) -> np.ndarray:
    """Return the symmetric square root; unlike Cholesky's factor it exists for correlations of plus or minus 1."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T


def _check_count(name: str, value: Any, minimum: int) -> int:
    """Return an integer of at least minimum."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} is not an integer. Pass an integer of at least {minimum}.")
    if value < minimum:
        raise ValueError(f"{name}={value!r} is too small. Pass an integer of at least {minimum}.")
    return int(value)


def _check_number(name: str, value: Any, minimum: float = -np.inf) -> float:
    """Return a finite float of at least minimum."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name}={value!r} is not a number. Pass a number.")
    number = float(value)
    if not np.isfinite(number) or number < minimum:
        lowest = "" if np.isinf(minimum) else f" of at least {minimum:g}"
        raise ValueError(f"{name}={value!r} will not do. Pass a finite number{lowest}.")
    return number


def _check_numbers(name: str, values: Any) -> np.ndarray:
    """Return finite floats in the shape they came in."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name}={values!r} does not hold numbers. Pass numbers.") from error
    if not np.isfinite(array).all():
        raise ValueError(f"{name}={values!r} has an entry that is NaN or infinite. Pass finite numbers.")
    return array
