"""Transforms with a memory, center, scale, poly and bs: state found in fit as plain numbers, then a function of rows.

The numbers are those of formulae; with weights they are those of formulae on k copies of a row of weight k.
"""

from typing import Any

import numpy as np

from hbsk._data.checks import check_digits
from hbsk._messages import shown
from hbsk._model.expressions import Call, arguments_of, constant, label


def find_state(call: Call, x: np.ndarray, weight: np.ndarray | None) -> dict[str, Any]:
    """Find the state of a stateful call from the values of its argument in all rows of fit.

    Raises
    ------
    ValueError
        For values the transform is not defined on, or weights it cannot be exact for.
    """
    name = label(call)
    x = np.asarray(x)
    if x.ndim != 1 or x.dtype.kind not in "biuf":
        raise ValueError(f"The term {name!r} of the formula needs one numeric column as its first argument.")
    check_digits(x, f"The argument of {name!r} in the formula")
    x = x.astype(np.float64)
    if not np.isfinite(x).all():
        raise ValueError(f"The argument of {name!r} in the formula is not finite in every row.")
    options = {key: constant(value) for key, value in list(arguments_of(call).items())[1:]}
    if weight is not None:
        x, weight = x[weight > 0], weight[weight > 0]
    if call.function == "poly":
        return _poly_state(name, x, weight, **options)
    if call.function == "bs":
        return _spline_state(name, x, weight, **options)
    mean = np.average(x, weights=weight)
    if call.function == "center":
        return {"mean": float(mean)}
    return {"mean": float(mean), "sd": float(np.sqrt(np.average((x - mean) ** 2, weights=weight)))}


def apply_state(function: str, state: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Transform values with a state found in fit."""
    if function == "center":
        return x - state["mean"]
    if function in ("scale", "standardize"):
        return (x - state["mean"]) / state["sd"]
    x = np.asarray(x, dtype=np.float64)
    return _polynomial(x, state) if function == "poly" else _spline(x, state)


# --------------------------------------------------------------------------------------------------------------------
# Orthogonal polynomials by the three-term recurrence


def _poly_state(
    name: str, x: np.ndarray, weight: np.ndarray | None, degree: int = 1, raw: bool = False
) -> dict[str, Any]:
    if not isinstance(degree, int) or isinstance(degree, bool) or degree < 1:
        raise ValueError(f"The degree in {name!r} must be a positive integer, got {shown(degree)}.")
    if raw:
        return {"degree": degree}
    if len(np.unique(x)) <= degree:
        raise ValueError(f"{name!r} needs more than {degree} different values; the column has {len(np.unique(x))}.")
    weight = np.ones_like(x) if weight is None else weight
    alpha, norms = [], [weight.sum()]
    before, current = np.zeros_like(x), np.ones_like(x)
    for k in range(degree):
        alpha.append(np.sum(weight * x * current**2) / norms[k])
        beta = norms[k] / norms[k - 1] if k else 0.0
        before, current = current, (x - alpha[k]) * current - beta * before
        norms.append(np.sum(weight * current**2))
    return {"degree": degree, "alpha": tuple(map(float, alpha)), "norms": tuple(map(float, norms))}


def _polynomial(x: np.ndarray, state: dict[str, Any]) -> np.ndarray:
    degree = state["degree"]
    if "alpha" not in state:
        return np.column_stack([x**k for k in range(1, degree + 1)])
    alpha, norms = state["alpha"], state["norms"]
    columns = [np.ones_like(x)]
    for k in range(degree):
        column = (x - alpha[k]) * columns[k]
        if k:
            column -= norms[k] / norms[k - 1] * columns[k - 1]
        columns.append(column)
    return np.column_stack([columns[k] / np.sqrt(norms[k]) for k in range(1, degree + 1)])


# --------------------------------------------------------------------------------------------------------------------
# B-splines


def _spline_state(
    name: str,
    x: np.ndarray,
    weight: np.ndarray | None,
    df: int | None = None,
    knots: float | None = None,
    degree: int = 3,
    intercept: bool = False,
    lower_bound: float | None = None,
    upper_bound: float | None = None,
) -> dict[str, Any]:
    if knots is not None:
        raise ValueError(f"{name!r}: a formula cannot hold a list of knots; pass df=, or use SplineTransformer.")
    if not isinstance(degree, int) or degree < 0:
        raise ValueError(f"The degree in {name!r} must be an integer >= 0, got {shown(degree)}.")
    least = degree + bool(intercept)
    if not isinstance(df, int) or df < max(least, 1):
        raise ValueError(f"{name!r} needs df=, an integer >= {max(least, 1)}, got {shown(df)}.")
    fractions = np.linspace(0, 1, df - least + 2)[1:-1]
    inner = _quantiles(name, x, weight, fractions) if len(fractions) else np.empty(0)
    lower = np.min(x) if lower_bound is None else lower_bound
    upper = np.max(x) if upper_bound is None else upper_bound
    if not lower < upper or np.any(inner < lower) or np.any(inner > upper):
        raise ValueError(
            f"{name!r} has bounds {lower!r} and {upper!r} that do not enclose its knots {inner.tolist()!r}."
        )
    every = np.sort(np.concatenate([[lower, upper] * (degree + 1), inner]))
    return {"knots": tuple(every.tolist()), "degree": degree, "intercept": bool(intercept)}


def _quantiles(name: str, x: np.ndarray, weight: np.ndarray | None, fractions: np.ndarray) -> np.ndarray:
    """Return percentiles as NumPy does, over copies where there are weights."""
    if weight is None or np.all(weight == 1):
        return np.percentile(x, 100 * fractions)
    if np.any(weight != np.floor(weight)):
        raise ValueError(
            f"{name!r} puts its knots at quantiles of the column, which sample_weight with fractions does not define "
            "(a weight of k means k copies of a row). Use integer weights, or make the columns before fit, "
            "for example with SplineTransformer."
        )
    order = np.argsort(x, kind="stable")
    ends = np.cumsum(weight[order])
    position = fractions * (ends[-1] - 1)
    below = np.floor(position)
    low, high = (x[order][np.searchsorted(ends, rank, side="right")] for rank in (below, np.ceil(position)))
    return low + (high - low) * (position - below)


def _spline(x: np.ndarray, state: dict[str, Any]) -> np.ndarray:
    from scipy.interpolate import BSpline

    basis = BSpline.design_matrix(x, np.asarray(state["knots"]), state["degree"], extrapolate=True).toarray()
    return basis if state["intercept"] else basis[:, 1:]
