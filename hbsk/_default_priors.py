"""Bambi's auto-scaled priors, by Bambi's rule instead of Bambi's import.

The rule is that of `bambi.priors.scaler.PriorScaler` (Bambi 0.21) for responses with an identity or log link:
with s the sd of y (1 for counts), a coefficient of a column of sd s_k is Normal(0, 2.5 s / s_k), an intercept
Normal(mean(y), sqrt((2.5 s)^2 + sum_k (2.5 s / s_k)^2 mean_k^2)), over the common columns; effects of groups have
HalfNormal sds of the same scales, and the residual sd is HalfStudentT(4, s).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hbsk._design import columns_by_term

# Standard deviations of y that a change of one sd of a column may make.
WIDTH = 2.5


def default_priors(specification, moments) -> dict[str, Any]:
    """Return the default priors of a specification, as the plain data of `priors_`.

    With an intercept the common columns without a varying counterpart count as centred. Bambi widens the priors on the
    intercept and on `1|group` by the raw means of the common columns, although the intercept it samples belongs to
    centred columns; a column such as `year` would make the prior on the between-group sd a thousand times wider. Where
    a term varies by group its mean is kept, because then `1|group` is the effect at zero of that column. Without an
    intercept nothing is centred, and all means count.

    With known standard errors s^2 is the variance of y plus the mean of their squares: studies that happen to agree
    better than their errors allow would otherwise be told that the truth is where they are.

    A constant column (sd 0, for which the scale would be infinite) gets the prior of a column whose sd is its absolute
    value, or 1 if it is zero; so does a constant y. Such priors are harmless: the engine drops constant centred
    columns.

    Parameters
    ----------
    specification : Specification
        Terms and columns of the model.
    moments : Moments
        Means and population standard deviations of y and of the design columns, over copies.

    Returns
    -------
    dict
        Term name -> (distribution name, arguments); a term of several columns has lists with one number for each of
        its columns.
    """
    y_scale = float(usable_scale(moments.y_mean, moments.y_spread))
    first = int(specification.has_intercept)
    terms = specification.common_terms[first:]
    mean, sd = np.asarray(moments.x_mean)[first:], np.asarray(moments.x_sd)[first:]
    scale = WIDTH * y_scale / usable_scale(mean, sd)
    if specification.has_intercept:
        varying = {term for factor in specification.factors for term in factor.terms}
        names = [factor.name for factor in specification.factors]
        varies = np.array([any(f"{term}|{name}" in varying for name in names) for term in terms], dtype=bool)
        mean = np.where(varies & (sd > 0), mean, 0.0)
    of_intercept = float(np.sqrt((WIDTH * y_scale) ** 2 + np.sum((scale * mean) ** 2)))

    priors: dict[str, Any] = {}
    if specification.has_intercept:
        priors["Intercept"] = ("Normal", {"mu": float(moments.y_mean), "sigma": of_intercept})
    for term, columns in columns_by_term(terms).items():
        priors[term] = ("Normal", {"mu": _plain(np.zeros(len(columns))), "sigma": _plain(scale[columns])})
    for f, factor in enumerate(specification.factors):
        scale = WIDTH * y_scale / usable_scale(np.asarray(moments.z_mean[f]), np.asarray(moments.z_sd[f]))
        scale = np.where(np.array(factor.columns) == "1", of_intercept, scale)
        for term, columns in columns_by_term(factor.terms).items():
            priors[term] = ("Normal", {"mu": 0.0, "sigma": ("HalfNormal", {"sigma": _plain(scale[columns])})})
    for factor in specification.factors:
        if any(len(block) > 1 for block in factor.blocks):
            priors[f"corr|{factor.name}"] = ("LKJ", {"eta": 1.0})
    priors["sigma"] = ("HalfStudentT", {"nu": 4.0, "sigma": y_scale})
    return priors


def usable_scale(mean, sd):
    """Return the standard deviation, or a stand-in with the units of the column where that is 0."""
    magnitude = np.abs(mean)
    return np.where(np.asarray(sd) > 0, sd, np.where(magnitude > 0, magnitude, 1.0))


def _plain(numbers: np.ndarray) -> float | list[float]:
    """Return one number as a number, several as a list."""
    return float(numbers[0]) if len(numbers) == 1 else numbers.tolist()
