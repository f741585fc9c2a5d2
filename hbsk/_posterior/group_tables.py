"""Group effects, sds and shrinkage as labelled tables, in the user's names."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hbsk._messages import interval_columns, quoted, shown
from hbsk._posterior.no_pooling import fit_no_pooling
from hbsk._posterior.orders import OF_MEAN, OF_VARIANCE, coefficient_orders, group_sd_orders
from hbsk._posterior.parts import BLOCK_ELEMENTS
from hbsk._posterior.prediction import mixture_quantiles
from hbsk._shrinkage.tables import EFFECT_COLUMNS

INTERCEPT_COLUMNS = {"1": "Intercept"}


def sd_series(frame, posterior) -> dict[str, pd.Series]:
    """Return the posterior mean of the between-group sds, by factor, indexed by term."""
    nodes = posterior.variance_nodes()
    means = {}
    orders = group_sd_orders(posterior.tails, [sd.shape[1] for sd in nodes.group_sd])
    for factor, sd, order in zip(frame.specification.factors, nodes.group_sd, orders, strict=True):
        mean = np.where(order <= OF_MEAN, np.inf, posterior.weight @ sd)
        means[factor.name] = pd.Series(mean, index=column_labels(factor), name="sd")
    return means


def correlation_frames(frame, posterior) -> dict[str, pd.DataFrame]:
    """Return the posterior mean of the correlation matrix of each factor's effects."""
    nodes = posterior.variance_nodes()
    return {
        factor.name: pd.DataFrame(
            np.einsum("m,mkl->kl", posterior.weight, correlation), column_labels(factor), column_labels(factor)
        )
        for factor, correlation in zip(frame.specification.factors, nodes.correlation, strict=True)
    }


def column_labels(factor) -> list[str]:
    """Return a label for each varying column: its term, or its column where a term has several."""
    return [
        term if factor.terms.count(term) == 1 else f"{column}|{factor.name}"
        for column, term in zip(factor.columns, factor.terms, strict=True)
    ]


def shrinkage_frames(frame, posterior) -> dict[str, pd.DataFrame]:
    """Return shrinkage by factor, a frame of groups times terms."""
    return {
        factor.name: pd.DataFrame(
            posterior.shrinkage(f), label_index(factor.labels, factor.name), column_labels(factor)
        )
        for f, factor in enumerate(frame.specification.factors)
    }


def label_index(labels, name) -> pd.Index:
    if len(labels) and isinstance(labels[0], tuple):
        return pd.Index(list(labels), name=name, tupleize_cols=False)
    return pd.Index(labels, name=name)


def group_effect_table(frame, fitted, copies, coverage) -> pd.DataFrame:
    """Return a tidy table of the coefficients of every group."""
    tables = []
    for f, factor in enumerate(frame.specification.factors):
        labels = factor.labels
        moments = fitted.posterior.group_moments(f)
        with_common = common_counterparts(frame.specification, factor)
        mean, sd = _sums_of_coefficients(frame.specification, fitted.posterior, f, moments, with_common)
        alone = [None] * len(with_common)
        deviation, deviation_sd = _sums_of_coefficients(frame.specification, fitted.posterior, f, moments, alone)
        separate = _no_pooling_estimates(fitted, frame.specification, f, with_common)
        shrinkage = fitted.posterior.shrinkage(f)
        n_groups, q = mean.shape
        table = pd.DataFrame(
            {
                "factor": factor.name,
                "group": pd.Series(np.tile(labels, q)).infer_objects(),
                "term": np.repeat(column_labels(factor), n_groups),
                "n": np.tile(copies[f], q),
                "no_pooling": separate.T.ravel(),
                "mean": mean.T.ravel(),
                "sd": sd.T.ravel(),
                "deviation": deviation.T.ravel(),
                "deviation_sd": deviation_sd.T.ravel(),
                "shrinkage": shrinkage.T.ravel(),
            }
        )
        if coverage is not None:
            low, high = interval_columns(coverage)
            table[low], table[high] = _intervals(frame, fitted.posterior, f, with_common, n_groups, coverage)
        tables.append(table)
    if not tables:
        return pd.DataFrame(columns=EFFECT_COLUMNS)
    return pd.concat(tables, ignore_index=True)


def find_term(specification, term, factor, purpose: str) -> tuple[int, int]:
    """Return the numbers of a grouping factor and of one of its varying columns, by the names that users give.

    Parameters
    ----------
    specification : Specification
    term : str or None
        Label of a varying column (`column_labels`); None is the first.
    factor : str or None
        Name of a grouping factor; with several of them, it or the term must be named.
    purpose : str
        What is to be done with the groups, for messages.
    """
    names = [each.name for each in specification.factors]
    if not names:
        raise ValueError(
            f"There are no groups to {purpose}: the model was fitted without groups, or with pooling='complete', which "
            "ignores them."
        )
    if factor is None and term is None and len(names) > 1:
        raise ValueError(
            f"The model has the grouping factors {quoted(names)}; say with factor= which groups to {purpose}, for "
            f"example factor={names[0]!r}."
        )
    if factor is not None and factor not in names:
        raise ValueError(
            f"factor={shown(factor)} is no grouping factor of this model; its factors are {quoted(names)}."
        )
    known = {
        label: (f, k)
        for f, each in enumerate(specification.factors)
        if factor in (None, each.name)
        for k, label in enumerate(column_labels(each))
    }
    if term is None:
        return next(iter(known.values()))
    if term not in known:
        owner = "this model" if factor is None else f"the factor {factor!r}"
        raise ValueError(f"term={shown(term)} is no varying term of {owner}; its terms are {quoted(known)}.")
    return known[term]


def common_counterparts(specification, factor) -> list[int | None]:
    """Return for each varying column the common column of the same name, if there is one."""
    names = list(specification.common_columns)
    wanted = [INTERCEPT_COLUMNS.get(column, column) for column in factor.columns]
    return [names.index(name) if name in names else None for name in wanted]


def _sums_of_coefficients(specification, posterior, f, moments, with_common):
    """Return means and sds, (n_groups, q), of effects plus the common columns that are named for each; None: none."""
    common_mean, common_covariance = posterior.common_moments()
    mean = _with_common(moments.mean, common_mean, with_common)
    variance = np.einsum("jkk->jk", moments.covariance).copy()
    for k, column in enumerate(with_common):
        if column is not None:
            variance[:, k] += common_covariance[column, column] + 2 * moments.with_common[:, column, k]
    sd = np.sqrt(np.maximum(variance, 0.0))
    sd[_without_variance(specification, posterior, f, with_common, len(mean))] = np.inf
    return mean, sd


def _without_variance(specification, posterior, f, with_common, n_groups):
    """Tell of which coefficients, (n_groups, q), the posterior variance does not exist."""
    without = np.zeros((n_groups, len(with_common)), dtype=bool)
    if posterior.has_infinite_moments:
        for k, column in enumerate(with_common):
            x = np.zeros((n_groups, len(specification.common_columns)))
            if column is not None:
                x[:, column] = 1.0
            z = np.zeros((n_groups, len(with_common)))
            z[:, k] = 1.0
            orders = coefficient_orders(specification, posterior, x, f, z, np.arange(n_groups))
            without[:, k] = orders <= OF_VARIANCE
    return without


def _no_pooling_estimates(fitted, specification, f, with_common):
    if fitted.own_estimates is not None:
        return fitted.own_estimates[f]
    posterior = fitted.posterior
    own = posterior.own_effects(f)
    if own is not None:
        return _with_common(own, posterior.common_estimates(), with_common)
    if not posterior.pools_nothing:
        try:
            posterior = fit_no_pooling(fitted.model, fitted.scaling, specification.has_intercept)
        except ValueError:  # without pooling, where fewer rows tell sigma: improper, or beyond floats
            return np.full((fitted.posterior.n_groups[f], len(with_common)), np.nan)
    moments = posterior.group_moments(need_covariance=False)
    own = moments.mean + (0.0 if fitted.effect_mean is None else fitted.effect_mean)
    estimate = _with_common(own, posterior.common_estimates(), with_common)
    return np.where(posterior.unidentified_effects(), np.nan, estimate)


def _with_common(effects, common, with_common):
    """Return effects (n_groups, q) plus their common counterparts, where they have one."""
    return effects + [0.0 if column is None else common[column] for column in with_common]


def _intervals(frame, posterior, f, with_common, n_groups, coverage):
    """Return ends of central intervals of the coefficients, term by term, groups within."""
    levels = np.array([(1 - coverage) / 2, (1 + coverage) / 2])
    p, q = len(frame.specification.common_columns), len(with_common)
    ends = []
    posterior, location = posterior.about_zero()
    for k, column in enumerate(with_common):
        x = np.zeros((n_groups, p))
        if column is not None:
            x[:, column] = 1.0
        unit = np.zeros((n_groups, q))
        unit[:, k] = 1.0
        # the other factors have no part in these coefficients
        factors = frame.specification.factors
        z = [unit if i == f else np.zeros((n_groups, len(other.columns))) for i, other in enumerate(factors)]
        codes = [np.arange(n_groups) if i == f else np.zeros(n_groups, dtype=int) for i in range(len(factors))]
        width = max(1, BLOCK_ELEMENTS // (4 * posterior.n_nodes))
        for start in range(0, n_groups, width):
            rows = slice(start, start + width)
            mixture = posterior.coefficient_mixture(x[rows], [part[rows] for part in z], [code[rows] for code in codes])
            ends.append(mixture_quantiles(mixture, levels) + (location if column == 0 else 0.0))
    ends = np.concatenate(ends)
    return ends[:, 0], ends[:, 1]
