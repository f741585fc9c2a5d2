"""Bambi's auto-scaled priors, by Bambi's rule instead of Bambi's import.

The rule is that of `bambi.priors.scaler.PriorScaler` (Bambi 0.21) for responses with an identity or log link:
with s the sd of y (1 for counts), a coefficient of a column of sd s_k is Normal(0, 2.5 s / s_k), an intercept
Normal(mean(y), sqrt((2.5 s)^2 + sum_k (2.5 s / s_k)^2 mean_k^2)), over the common columns; effects of groups have
HalfNormal sds of the same scales, and the residual sd is HalfStudentT(4, s).

With a logit link a coefficient of a numeric column is Normal(0, 1 / s_k), that of a level of a category Normal(0, 1),
all columns of an interaction of both have the sd of their sum, and the intercept is Normal(0, 1.5); effects of groups
as for counts, with these coefficients in the sum.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hbsk._model.centres import centre_array, centre_key, centre_of, movable_columns
from hbsk._model.design import columns_by_term, term_width

# Standard deviations of y that a change of one sd of a column may make.
WIDTH = 2.5
# Sd of the logit at the means of the columns.
LOGIT_INTERCEPT = 1.5


def default_priors(
    specification, moments, centres=None, *, family: str = "gaussian", location: float = 0.0, interaction_sd=None
) -> dict[str, Any]:
    """Return the default priors of a specification, as the plain data of `priors_`.

    With an intercept the common columns without a varying counterpart count as centred. Bambi widens the priors on the
    intercept and on `1|group` by the raw means of the common columns, although the intercept it samples belongs to
    centred columns; a column such as `year` would make the prior on the between-group sd a thousand times wider. Where
    a term varies by group, `1|group` is the effect at the point that its priors refer to, and what counts is the mean
    less that point. Without an intercept nothing is centred, and all means count.

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
    centres : dict, optional
        Points that the priors of effects refer to, by key; zero by default.
    family : {"gaussian", "binomial", "poisson"}, default="gaussian"
    location : float, default=0.0
        Mean of the prior of the intercept where y is not Gaussian. Bambi has 0, a rate of 1 for one unit of exposure;
        the log of the pooled rate makes the unit of exposure matter nothing.
    interaction_sd : ndarray of shape (p,), optional
        From `sds_of_interactions`, for a binomial y.

    Returns
    -------
    dict
        Term name -> (distribution name, arguments); a term of several columns has lists with one number for each of
        its columns.
    """
    is_gaussian = family == "gaussian"
    y_scale = float(usable_scale(moments.y_mean, moments.y_spread)) if is_gaussian else 1.0
    first = int(specification.has_intercept)
    terms = specification.common_terms[first:]
    mean, sd = np.asarray(moments.x_mean)[first:], np.asarray(moments.x_sd)[first:]
    if family == "binomial":
        scale = _logit_scales(specification, moments, interaction_sd)[first:]
    else:
        scale = WIDTH * y_scale / usable_scale(mean, sd)
    distances = _distances(specification, terms, mean, centres or {})
    if specification.has_intercept:
        distances = [np.where(sd > 0, distance, 0.0) for distance in distances]
    else:
        distances = [np.where(np.isnan(distance), mean, distance) for distance in distances]
    of_factors = [
        float(np.sqrt((WIDTH * y_scale) ** 2 + np.sum((scale * distance) ** 2, where=~np.isnan(distance))))
        for distance in distances
    ]
    of_intercept = of_factors.pop()

    priors: dict[str, Any] = {}
    if specification.has_intercept:
        of_intercept = LOGIT_INTERCEPT if family == "binomial" else of_intercept
        mu = float(moments.y_mean) if is_gaussian else float(location)
        priors["Intercept"] = ("Normal", {"mu": mu, "sigma": of_intercept})
    for term, columns in columns_by_term(terms).items():
        priors[term] = ("Normal", {"mu": _plain(np.zeros(len(columns))), "sigma": _plain(scale[columns])})
    for f, factor in enumerate(specification.factors):
        scale = WIDTH * y_scale / usable_scale(np.asarray(moments.z_mean[f]), np.asarray(moments.z_sd[f]))
        scale = np.where(np.array(factor.columns) == "1", of_factors[f], scale)
        for term, columns in columns_by_term(factor.terms).items():
            priors[term] = ("Normal", {"mu": 0.0, "sigma": ("HalfNormal", {"sigma": _plain(scale[columns])})})
    for factor in specification.factors:
        if any(len(block) > 1 for block in factor.blocks):
            priors[f"corr|{factor.name}"] = ("LKJ", {"eta": 1.0})
        if movable_columns(factor):
            key = centre_key(factor)
            priors[key] = centre_of(factor, (centres or {}).get(key, {}))
    if is_gaussian:
        priors["sigma"] = ("HalfStudentT", {"nu": 4.0, "sigma": y_scale})
    return priors


def sds_of_interactions(specification, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return the sd of the sum of its columns for each column of a term that is partly numeric; NaN for others.

    Parameters
    ----------
    specification : Specification
    x : ndarray of shape (n_rows, p)
        Common columns.
    weight : ndarray of shape (n_rows,)
        Copies of the rows.
    """
    sds = np.full(x.shape[1], np.nan)
    for term, columns in _columns_of_recipes(specification):
        if len(term) > 1 and len(columns) > 1 and not _is_categoric(term):
            total = x[:, columns].sum(axis=1)
            mean = np.average(total, weights=weight)
            sds[columns] = np.sqrt(np.average((total - mean) ** 2, weights=weight))
    return sds


def _logit_scales(specification, moments, interaction_sd) -> np.ndarray:
    """Return the sds of the priors of common coefficients on the scale of logits."""
    sd = np.array(moments.x_sd, dtype=float)
    if interaction_sd is not None:
        sd = np.where(np.isnan(interaction_sd), sd, interaction_sd)
    scale = 1.0 / usable_scale(np.asarray(moments.x_mean), sd)
    for term, columns in _columns_of_recipes(specification):
        if term and _is_categoric(term):
            scale[columns] = 1.0
    return scale


def _columns_of_recipes(specification):
    """Yield how to compute each common term, and its columns."""
    start = 0
    for term in specification.recipe.common:
        width = term_width(term)
        yield term, list(range(start, start + width))
        start += width


def _is_categoric(term) -> bool:
    return all(component.levels is not None for component in term)


def _distances(specification, terms, mean, centres) -> list[np.ndarray]:
    """Return how far the means of common columns are from the point of each factor, and of any: NaN where none varies.

    One array of shape (n_columns,) for each factor, and a last one for the common intercept.
    """
    names = list(specification.common_columns)[len(specification.common_columns) - len(mean) :]
    distances, of_any = [], np.full(len(mean), np.nan)
    for factor in specification.factors:
        distance = np.array(
            [m if f"{term}|{factor.name}" in factor.terms else np.nan for m, term in zip(mean, terms, strict=True)]
        )
        for column, value in zip(factor.columns, centre_array(factor, centres), strict=True):
            if column in names:
                distance[names.index(column)] -= value
        distances.append(distance)
        of_any = np.where(np.isnan(of_any), distance, of_any)
    # with several factors every one of them has its own intercept, which the others' columns move as well
    return [np.where(np.isnan(distance), of_any, distance) for distance in distances] + [of_any]


def usable_scale(mean, sd):
    """Return the standard deviation, or a stand-in with the units of the column where that is 0."""
    magnitude = np.abs(mean)
    return np.where(np.asarray(sd) > 0, sd, np.where(magnitude > 0, magnitude, 1.0))


def _plain(numbers: np.ndarray) -> float | list[float]:
    """Return one number as a number, several as a list."""
    return float(numbers[0]) if len(numbers) == 1 else numbers.tolist()
