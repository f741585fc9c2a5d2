"""Predictions of a lazy frame's rows as expressions, which its own engine computes when it is asked.

A row's mean and variance are those of `MarginalPosterior.row_moments`, in units where columns are centred: a linear and
a quadratic form in its columns, whose coefficients are the same for all rows of a group. A left join brings them.
"""

from __future__ import annotations

import numbers
from dataclasses import dataclass, replace
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from hbsk._data.factor import Factor
from hbsk._data.lazy import LazyTable, left_joined, small_frame
from hbsk._data.sources import where_labels_stand
from hbsk._messages import quoted, warn
from hbsk._model.lazy_columns import LazyColumns, lazy_columns, total
from hbsk._model.specification import Specification
from hbsk._posterior.no_pooling import NoPoolingPosterior
from hbsk._posterior.nodes import MarginalPosterior
from hbsk.exceptions import LabelMismatchWarning

PREDICTION, STANDARD_DEVIATION = "prediction", "prediction_std"
# Unknown groups that an error names.
MOST_SHOWN = 5


@dataclass(frozen=True)
class RowLaw:
    """Moments of rows as forms in their scaled columns.

    Attributes
    ----------
    group_columns : dict of str to ndarray of shape (n_groups,)
        Coefficients of known groups.
    new_group : dict of str to float
        The same coefficients of a group that fit has not seen.
    need_variance : bool
    of_new : MarginalPosterior or None
        Where nothing is pooled, the posterior of rows of groups that fit has not seen.
    """

    posterior: MarginalPosterior
    group_columns: dict[str, np.ndarray]
    new_group: dict[str, float]
    need_variance: bool
    of_new: MarginalPosterior | None = None


def row_law(posterior, *, need_variance: bool, include_groups: bool = True) -> RowLaw:
    """Return the moments of rows by group.

    Parameters
    ----------
    posterior : MarginalPosterior or NoPoolingPosterior
    need_variance : bool
    include_groups : bool, default=True
        Whether rows have the effects of their groups; otherwise only the fixed mean of these.

    Raises
    ------
    ValueError
        For posteriors whose rows have no law that is the same form for all rows of a group.
    """
    of_new = None
    if isinstance(posterior, NoPoolingPosterior):
        if need_variance:
            raise ValueError(
                'return_std=True with pooling="none" depends on what the rows of each group identify, which is no '
                "expression of a lazy frame's engine. Leave return_std out, or collect the rows that you ask for."
            )
        posterior, of_new = posterior.known, posterior.new
    if not isinstance(posterior, MarginalPosterior):
        kind = "was sampled by NUTS" if posterior.are_draws else "has several grouping factors"
        raise ValueError(
            f"A lazy frame can be predicted from a model with one grouping factor that was integrated, and this one "
            f"{kind}. Collect the rows that you ask for."
        )
    if need_variance and posterior.has_infinite_moments:
        raise ValueError(
            "The posterior is so wide (few groups, a heavy-tailed prior) that the variance of some rows is infinite, "
            "and which ones is no expression of a lazy frame's engine. Leave return_std out, or collect the rows that "
            "you ask for."
        )
    columns: dict[str, np.ndarray] = {}
    fresh: dict[str, float] = {}
    if not posterior.n_groups or not include_groups:
        return RowLaw(posterior, columns, fresh, need_variance, of_new)
    effects = posterior._effects_with_spread if need_variance else posterior._effects
    q, p = effects.mean.shape[1], posterior.common_mean.shape[1]
    for k in range(q):
        columns[f"u{k}"], fresh[f"u{k}"] = effects.mean[:, k], 0.0
    if need_variance:
        between = posterior._new_group_covariance()
        for k in range(q):
            for m in range(k + 1):
                twice = 1.0 if m == k else 2.0
                columns[f"s{k}_{m}"] = twice * effects.covariance[:, k, m]
                fresh[f"s{k}_{m}"] = twice * float(between[k, m])
            for a in range(p):
                columns[f"h{a}_{k}"], fresh[f"h{a}_{k}"] = 2.0 * effects.with_common[:, a, k], 0.0
    return RowLaw(posterior, columns, fresh, need_variance, of_new)


def scaled_columns(posterior, columns: LazyColumns) -> dict[str, nw.Expr]:
    """Return the columns of rows in units of the engine, and what is added to a mean, by name."""
    scaling = posterior.scaling
    scaled: dict[str, nw.Expr] = {}
    for a, k in enumerate(scaling.kept):
        centre = float(scaling.x_centre[k]) if posterior.has_intercept else 0.0
        scaled[f"x{a}"] = (columns.common[k] - centre) / float(scaling.x_scale[k])
    added = [nw.lit(float(scaling.y_centre))] if posterior.has_intercept else []
    added += [] if columns.offset is None else [columns.offset]
    if posterior.n_groups:
        (varying,) = columns.varying
        z_centre = np.zeros(len(varying)) if scaling.z_centre is None else scaling.z_centre
        for k, each in enumerate(varying):
            # a varying intercept is 1 in every row
            scaled[f"z{k}"] = (each - float(z_centre[k])) / float(scaling.z_scale[k])
        if posterior.effect_mean is not None:
            added += [each * float(mean) for each, mean in zip(varying, posterior.effect_mean, strict=True)]
    if added:
        scaled["added"] = total(added)
    return scaled


def row_expressions(
    law: RowLaw, names: dict[str, str], standard_error: nw.Expr | None = None
) -> tuple[nw.Expr, nw.Expr | None]:
    """Return mean and sd of a new observation of each row.

    Parameters
    ----------
    law : RowLaw
    names : dict of str to str
        Columns of the joined frame, by the names of `scaled_columns` and of the coefficients of groups.
    standard_error : Expr, optional
        Known errors of the rows; otherwise the residual variance is that of the posterior.
    """
    posterior = law.posterior
    p, q = posterior.common_mean.shape[1], posterior.factor.shape[1] if law.new_group else 0
    x = [nw.col(names[f"x{a}"]) for a in range(p)]
    z = [nw.col(names[f"z{k}"]) for k in range(q)]
    of_group = {name: _filled(nw.col(names[name]), value) for name, value in law.new_group.items()}
    b = posterior.weight @ posterior.common_mean
    terms = [x[a] * float(b[a]) for a in range(p)] + [z[k] * of_group[f"u{k}"] for k in range(q)]
    scale = float(posterior.scaling.y_scale)
    mean = (total(terms) if terms else nw.lit(0.0)) * scale
    if law.of_new is not None:
        fresh = law.of_new.weight @ law.of_new.common_mean
        of_new = total([x[a] * float(fresh[a]) for a in range(p)]) * scale
        mean = nw.when(nw.col(names["known"]) == 1).then(mean).otherwise(of_new)
    if "added" in names:
        mean = nw.col(names["added"]) + mean
    if not law.need_variance:
        return mean, None
    c = posterior._common_covariance()
    parts = [x[a] * total([x[d] * float(c[a, d] * (1 if a == d else 2)) for d in range(a + 1)]) for a in range(p)]
    for k in range(q):
        within = [z[m] * of_group[f"s{k}_{m}"] for m in range(k + 1)]
        parts.append(z[k] * total([*within, *(x[a] * of_group[f"h{a}_{k}"] for a in range(p))]))
    variance = (total(parts) if parts else nw.lit(0.0)) * scale**2
    variance = nw.when(variance < 0).then(nw.lit(0.0)).otherwise(variance)
    noise = float(posterior.weight @ posterior.residual_sds() ** 2)
    squares = nw.lit(noise) if standard_error is None else standard_error * standard_error
    return mean, (variance + squares).sqrt()


def _filled(column: nw.Expr, value: float) -> nw.Expr:
    """Return a column with a value for what is null; fill_null of narwhals 2.18 puts no number into those of Dask."""
    return nw.when(column.is_null()).then(nw.lit(value)).otherwise(column)


# --------------------------------------------------------------------------------------------------------------------
# The frame


def predict_lazily(
    posterior,
    specification: Specification,
    table: LazyTable,
    *,
    unknown_groups: str,
    return_std: bool = False,
    standard_error: str | None = None,
    include_groups: bool = True,
) -> nw.LazyFrame:
    """Return a lazy frame with its columns and predictions; rows are asked for only where unknown groups are errors.

    Parameters
    ----------
    posterior : Posterior
    specification : Specification
    table : LazyTable
    unknown_groups : {"population", "error", "nan"}
    return_std : bool, default=False
    standard_error : str, optional
        Column of known errors.
    include_groups : bool, default=True
        Whether labels are looked at.
    """
    new = [PREDICTION, STANDARD_DEVIATION][: 1 + return_std]
    clash = [name for name in table.names if _as_taken(name, table) in new]
    if clash:
        added = _as_taken(clash[0], table)
        beside = "" if added == clash[0] else f" {added!r}, and its engine takes the two for one name"
        raise ValueError(
            f"The lazy frame has a column {clash[0]!r} already, which predict would add{beside}; rename or drop it "
            "first."
        )
    require_features(specification, table)
    law = row_law(posterior, need_variance=return_std, include_groups=include_groups)
    posterior = law.posterior
    scaled = scaled_columns(posterior, lazy_columns(specification.recipe, table.schema))
    prefix = "_hbsk_"
    while any(name.lower().startswith(prefix) for name in table.names):
        prefix += "_"
    names = {name: prefix + name for name in (*scaled, *law.group_columns, "known")}
    frame = table.frame.with_columns(**{names[name]: each for name, each in scaled.items()})
    is_grouped = bool(law.new_group)
    if is_grouped:
        frame = _joined(frame, table, specification.factors[0], law, names, prefix)
        if unknown_groups == "error":
            _refuse_unknown(replace(table, frame=frame), specification.factors[0], names)
    error = None if standard_error is None else nw.col(standard_error).cast(nw.Float64)
    answers = dict(zip(new, row_expressions(law, names, error), strict=False))
    if is_grouped and unknown_groups == "nan":
        is_known = nw.col(names["known"]) == 1
        answers = {name: nw.when(is_known).then(each).otherwise(nw.lit(float("nan"))) for name, each in answers.items()}
    return frame.with_columns(**answers).select(*table.names, *new)


def _as_taken(name: str, table: LazyTable) -> str:
    """Return a name as its engine tells it from others: those of SQL look at no capitals."""
    engine = table.frame.implementation
    return name if engine.is_polars() or engine.is_dask() else name.lower()


def require_features(specification: Specification, table: LazyTable) -> None:
    """Raise unless a lazy frame has the columns that a model reads."""
    missing = [name for name in specification.feature_columns if name not in table.schema]
    if missing:
        raise ValueError(
            f"The lazy frame has no column {quoted(missing)}, which the model reads; its columns are "
            f"{quoted(table.names)}."
        )


def _joined(frame, table: LazyTable, factor: Factor, law: RowLaw, names: dict[str, str], prefix: str) -> nw.LazyFrame:
    """Return rows with the coefficients of their groups; null where fit has not seen a group."""
    columns = group_columns(factor, table)
    labels = [list(part) for part in zip(*factor.labels.tolist(), strict=True)] if len(columns) > 1 else None
    parts = labels or [factor.labels.tolist()]
    keys = {f"{prefix}key{k}": column for k, column in enumerate(columns)}
    kept, casts, compared = np.ones(factor.n_groups, dtype=bool), {}, {}
    beside: dict[str, Any] = {}
    for key, column, values in zip(keys, columns, parts, strict=True):
        dtype = table.schema[column]
        casts[key] = nw.String if dtype in (nw.Categorical, nw.Enum, nw.Unknown) else dtype
        # what narwhals has no name for, as a UUID, is compared as text
        compared[key] = [str(value) for value in values] if dtype == nw.Unknown else values
        kept &= _of_dtype(compared[key], casts[key])
    if not kept.any():
        dtypes = quoted(str(table.schema[column]) for column in columns)
        warn(
            f"{where_labels_stand(factor.source)}: no label of fit, such as {quoted(factor.labels[:3].tolist())}, can "
            f"be in the lazy frame, where the dtype is {dtypes}. All rows are taken as new groups. Write labels as in "
            "fit.",
            LabelMismatchWarning,
        )
    at = np.flatnonzero(kept)
    for key, values in compared.items():
        beside[key] = [values[i] for i in at]
    beside |= {names[name]: each[at] for name, each in law.group_columns.items()}
    beside[names["known"]] = np.ones(len(at), dtype=np.int64)
    groups = small_frame(beside, table.frame).with_columns(*(nw.col(key).cast(casts[key]) for key in keys))
    left = {f"{prefix}row{k}": nw.col(column).cast(casts[key]) for k, (key, column) in enumerate(keys.items())}
    return left_joined(frame.with_columns(**left), groups, list(left), list(keys))


def _of_dtype(values: list, dtype: Any) -> np.ndarray:
    """Tell which labels a column of a dtype may hold: the others are equal to none of its values."""
    if dtype == nw.String:
        fits = [isinstance(value, str) for value in values]
    elif dtype == nw.Boolean:
        fits = [not isinstance(value, str) and value in (0, 1) for value in values]
    elif dtype.is_integer():
        fits = [isinstance(value, numbers.Real) and value == int(value) for value in values]
    elif dtype.is_numeric():
        fits = [isinstance(value, numbers.Number) for value in values]
    else:
        fits = [not isinstance(value, str | numbers.Number) for value in values]
    return np.array(fits, dtype=bool)


def group_columns(factor: Factor, table: LazyTable) -> tuple[str, ...]:
    """Return the columns of a lazy frame that hold the labels of a factor."""
    assert factor.source is not None
    columns = factor.source.columns or (factor.name,)
    missing = [name for name in columns if name not in table.schema]
    if missing:
        by_keyword = " (fit had them as groups=)" if factor.source.from_keyword else ""
        raise ValueError(
            f"The labels of {factor.name!r} are in the column {quoted(missing)}{by_keyword}, which the lazy frame does "
            f"not have; its columns are {quoted(table.names)}."
        )
    return columns


def _refuse_unknown(table: LazyTable, factor: Factor, names: dict[str, str]) -> None:
    """Count rows of groups that fit has not seen, and raise an error that names some."""
    columns = list(group_columns(factor, table))
    unknown = table.where(nw.col(names["known"]).is_null()).frame.select(*columns)
    found = table.ask("unknown groups", unknown.group_by(*columns).agg(nw.len().alias("_hbsk_n")).head(MOST_SHOWN + 1))
    if not len(found):
        return
    labels = [row[0] if len(row) == 1 else row for row in found.select(*columns).rows()]
    more = " and more" if len(labels) > MOST_SHOWN else ""
    raise ValueError(
        f"The lazy frame has groups of {factor.name!r} not seen in fit: {quoted(labels[:MOST_SHOWN])}{more}. "
        'unknown_groups="error" asks for this error; "population" answers with the population mean, "nan" with NaN.'
    )
