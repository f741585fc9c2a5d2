"""Group effects, sds and shrinkage as labelled tables, in the user's names."""

from __future__ import annotations

import numpy as np
import pandas as pd

from hbsk._messages import interval_columns, quoted, shown
from hbsk._model.centres import varying_intercept
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


def group_effect_table(frame, fitted, copies, coverage, point=None) -> pd.DataFrame:
    """Return a tidy table of the coefficients of every group, intercepts at a point of the columns."""
    tables = []
    for f, factor in enumerate(frame.specification.factors):
        labels = factor.labels
        moments = fitted.posterior.group_moments(f)
        with_common = common_counterparts(frame.specification, factor)
        mean, sd = _sums_of_coefficients(frame.specification, fitted.posterior, f, moments, with_common)
        alone = [None] * len(with_common)
        deviation, deviation_sd = _sums_of_coefficients(frame.specification, fitted.posterior, f, moments, alone)
        separate = _no_pooling_estimates(fitted, frame.specification, f, with_common)
        rows = coefficient_rows(frame.specification, f, point)
        intercept = None if point is None else varying_intercept(factor)
        turned = None
        if intercept is not None:
            x, z = rows[intercept]
            law = (frame.specification, fitted.posterior, f)
            mean[:, intercept], sd[:, intercept] = _moments_at(*law, x, z)
            deviation[:, intercept], deviation_sd[:, intercept] = _moments_at(*law, np.zeros_like(x), z)
            separate = separate.copy()
            separate[:, intercept] = _no_pooling_at(fitted, frame.specification, f, x, z)
            turned = np.eye(len(z))
            turned[intercept] = z
        shrinkage = fitted.posterior.shrinkage(f, turned)
        n_groups, q = mean.shape
        table = pd.DataFrame(
            {
                "factor": _repeated([factor.name], n_groups * q),
                "group": pd.Series(np.tile(labels, q)).infer_objects(),
                "term": _repeated(column_labels(factor), n_groups),
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
            table[low], table[high] = _intervals(frame.specification, fitted.posterior, f, rows, coverage)
        tables.append(table)
    if not tables:
        return pd.DataFrame(columns=EFFECT_COLUMNS)
    return tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)


def _repeated(texts: list[str], times: int) -> pd.Series:
    """Return each text so many times; of very many, pandas looks at each one that it is given."""
    return pd.Series(texts).repeat(times).reset_index(drop=True)


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
    if moments.of_common is not None:
        common_covariance = moments.of_common
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
            varying = [column for column in with_common if column is not None]
            posterior = fit_no_pooling(fitted.model, fitted.scaling, specification.has_intercept, of_groups=varying)
        except ValueError:  # without pooling, where fewer rows tell sigma: improper, or beyond floats
            return np.full((fitted.posterior.n_groups[f], len(with_common)), np.nan)
    moments = posterior.group_moments(need_covariance=False)
    own = moments.mean + (0.0 if fitted.effect_mean is None else fitted.effect_mean)
    estimate = _with_common(own, posterior.common_estimates(), with_common)
    return np.where(posterior.unidentified_effects(), np.nan, estimate)


def _with_common(effects, common, with_common):
    """Return effects (n_groups, q) plus their common counterparts, where they have one."""
    return effects + [0.0 if column is None else common[column] for column in with_common]


def coefficient_rows(specification, f, point=None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return what the coefficients of the groups of a factor are made of: common columns (p,) and varying ones (q,).

    Of each varying column 1 and its common counterpart; of a varying intercept all columns at the point, if there is
    one.
    """
    factor = specification.factors[f]
    rows = []
    for k, column in enumerate(common_counterparts(specification, factor)):
        if point is not None and k == varying_intercept(factor):
            rows.append((point.common, point.varying[f]))
            continue
        x, z = np.zeros(len(specification.common_columns)), np.zeros(len(factor.columns))
        z[k] = 1.0
        if column is not None:
            x[column] = 1.0
        rows.append((x, z))
    return rows


def rows_of_groups(specification, f, x, z, groups):
    """Return rows as posteriors take them, of some groups of a factor; the other factors have no part in them."""
    n_rows, factors = len(groups), specification.factors
    columns = [np.tile(z, (n_rows, 1)) if i == f else np.zeros((n_rows, len(o.columns))) for i, o in enumerate(factors)]
    codes = [groups if i == f else np.zeros(n_rows, dtype=int) for i in range(len(factors))]
    return np.tile(x, (n_rows, 1)), columns, codes


def _mixtures_of_groups(specification, posterior, f, x, z):
    """Yield groups, a few at a time, and the law of ``x'b + z'u_j``."""
    n_groups = posterior.n_groups[f]
    width = max(1, BLOCK_ELEMENTS // (4 * posterior.n_nodes))
    for start in range(0, n_groups, width):
        groups = np.arange(start, min(start + width, n_groups))
        yield groups, posterior.coefficient_mixture(*rows_of_groups(specification, f, x, z, groups))


def _moments_at(specification, posterior, f, x, z):
    """Return means and sds, each (n_groups,), of ``x'b + z'u_j``."""
    near, location = posterior.about_zero()
    n_groups = posterior.n_groups[f]
    mean, variance = np.empty(n_groups), np.empty(n_groups)
    for groups, mixture in _mixtures_of_groups(specification, near, f, x, z):
        mean[groups], variance[groups] = mixture.moments()
    if posterior.has_infinite_moments:
        each = (np.tile(x, (n_groups, 1)), f, np.tile(z, (n_groups, 1)), np.arange(n_groups))
        variance[coefficient_orders(specification, posterior, *each) <= OF_VARIANCE] = np.inf
    return mean + (location * x[0] if location else 0.0), np.sqrt(np.maximum(variance, 0.0))


def _no_pooling_at(fitted, specification, f, x, z):
    """Return what each group's own rows say of ``x'b + z'u_j``, (n_groups,); NaN where they do not identify it."""
    posterior, n_groups = fitted.posterior, fitted.posterior.n_groups[f]
    rows = rows_of_groups(specification, f, x, z, np.arange(n_groups))
    own = None if fitted.own_estimates is None else fitted.own_estimates[f]
    if own is not None:  # with the common coefficient of the same column
        common = posterior.common_estimates()
        own = _with_common(own, -common, common_counterparts(specification, specification.factors[f]))
    else:
        own = posterior.own_effects(f)
    if own is not None:
        used = z != 0
        with np.errstate(invalid="ignore"):  # of a group that its slope separates: infinite less infinite
            return x @ posterior.common_estimates() + np.sum(own[:, used] * z[used], axis=1)
    known_mean = 0.0 if fitted.effect_mean is None else z @ fitted.effect_mean
    if not posterior.pools_nothing:
        try:
            posterior = fit_no_pooling(fitted.model, fitted.scaling, specification.has_intercept)
        except ValueError:
            return np.full(n_groups, np.nan)
    estimate, _ = posterior.row_moments(*rows, need_variance=False)
    return np.where(posterior.are_free(rows[1][0], rows[2]), np.nan, estimate + known_mean)


def _intervals(specification, posterior, f, rows, coverage):
    """Return ends of central intervals of the coefficients, term by term, groups within."""
    levels = np.array([(1 - coverage) / 2, (1 + coverage) / 2])
    ends = []
    posterior, location = posterior.about_zero()
    for x, z in rows:
        shift = location * x[0] if location else 0.0
        for _, mixture in _mixtures_of_groups(specification, posterior, f, x, z):
            ends.append(mixture_quantiles(mixture, levels) + shift)
    ends = np.concatenate(ends)
    return ends[:, 0], ends[:, 1]
