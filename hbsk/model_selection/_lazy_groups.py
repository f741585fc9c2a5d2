"""Groups left out of a fit whose rows are a lazy frame: products of the columns of every group, by one GROUP BY.

Left groups need the products of common columns group by group, which a fit does not keep: its own sums are of all rows.
The columns are those of the fit, in the units of its engine, so that the products are centred near zero and their total
is what the fit has kept; that tells whether the rows are the rows of the fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations_with_replacement
from typing import Any

import narwhals.stable.v2 as nw
import numpy as np

from hbsk._base import learnt_by, require_standard_error
from hbsk._data.lazy import LazyTable, as_numbers, as_table, read_lazy_table, require_numbers
from hbsk._data.sources import label_columns
from hbsk._estimators.lazy import refuse_labels_beside, refuse_rows_elsewhere
from hbsk._fit.lazy_sums import MOST_NUMBERS
from hbsk._fit.learnt import Fitted
from hbsk._model.frame import ModelFrame
from hbsk._model.lazy_columns import lazy_columns
from hbsk._posterior.lazy_prediction import group_columns, require_features, scaled_columns
from hbsk._posterior.nodes import MarginalPosterior
from hbsk.model_selection._leave_group_out import GroupProducts
from hbsk.model_selection._training_rows import (
    AskedFit,
    check_unit,
    factor_left_out,
    fitted_regressor,
    is_close,
    other_number,
    refuse_other_rows,
)


@dataclass(frozen=True)
class LazyGroups(AskedFit):
    """A fitted estimator, and the products of the groups of the lazy frame that it was fitted to.

    Attributes
    ----------
    products : GroupProducts
        In the units of the fit, its known means of effects taken off y.
    """

    products: GroupProducts

    # the only one; as that of `TrainingRows`
    factor = 0


def read_lazy_groups(
    estimator: Any, X: Any, y: Any, groups: Any, standard_error: Any, unit: str, factor: Any, caller: str
) -> LazyGroups:
    """Read the products of the groups of a lazy frame, and make sure that its rows are the rows of the fit.

    Parameters
    ----------
    estimator, X, y, groups, standard_error, unit, factor
        As in `loo`; y and standard_error are names of columns.
    caller : str
        Who asks, for messages.
    """
    check_unit(unit, factor)
    estimator, X = fitted_regressor(estimator, X, caller)
    if unit == "row":
        instead = "unit='group' leaves out groups by their sums, and cross_validate_sums folds of rows by theirs"
        refuse_rows_elsewhere(X, f"{caller} with unit='row'", instead)
    factor_left_out(estimator, factor, caller)
    refuse_labels_beside(groups)
    require_standard_error(estimator, standard_error, caller)
    learnt = learnt_by(estimator)
    posterior, specification = learnt.fitted.posterior, learnt.frame.specification
    if posterior.are_draws or len(specification.factors) > 1:
        kind = "was sampled by NUTS" if posterior.are_draws else "has several grouping factors"
        raise ValueError(
            f"{caller} leaves groups of a lazy frame out of a model with one grouping factor that was integrated, and "
            f"this one {kind}. Collect the frame."
        )
    table = read_lazy_table(X, estimator.verbose)
    y = require_numbers(table, specification.response if y is None else y, "y")
    if standard_error is not None:
        standard_error = require_numbers(table, standard_error, "standard_error")
    require_features(specification, table)
    products = _ask_products(posterior, learnt.frame, table, y, standard_error, caller)
    _require_same_rows(learnt.fitted, products, caller)
    return LazyGroups(estimator, caller, products)


def _ask_products(
    posterior: MarginalPosterior,
    frame: ModelFrame,
    table: LazyTable,
    y: str,
    standard_error: str | None,
    caller: str,
) -> GroupProducts:
    (factor,), scaling = frame.factors, posterior.scaling
    scaled = scaled_columns(posterior, lazy_columns(frame.specification.recipe, table.schema))
    added = scaled.pop("added", None)
    response = nw.col(y).cast(nw.Float64)
    scaled["y"] = (response if added is None else response - added) / float(scaling.y_scale)
    names = sorted(scaled, key=lambda name: "zxy".index(name[0]))  # stable: z0, z1, ..., x0, ..., y
    pairs = list(combinations_with_replacement(range(len(names)), 2))
    if factor.n_groups * len(pairs) > MOST_NUMBERS:
        raise ValueError(
            f"{len(pairs)} sums of each of {factor.n_groups:,} groups would come back, and at most {MOST_NUMBERS:.0e} "
            "numbers are asked for. cross_validate_sums with unit='group' leaves out folds of groups."
        )
    keys = {f"g{k}": column for k, column in enumerate(group_columns(factor, table))}
    columns = {key: nw.col(column) for key, column in keys.items()} | {f"c_{name}": scaled[name] for name in names}
    if standard_error is not None:
        error = nw.col(standard_error).cast(nw.Float64) / float(scaling.y_scale)
        columns["w"] = 1.0 / (error * error)
    weight = [nw.col("w")] if standard_error is not None else []
    of_rows = {}
    for a, b in pairs:
        product = nw.col(f"c_{names[a]}") * nw.col(f"c_{names[b]}")
        of_rows[f"p{a}_{b}"] = product * weight[0] if weight else product
    if weight:
        of_rows["log_weight"] = nw.when(weight[0] > 0).then(weight[0]).log()
    query = table.frame.select(**columns).select(*keys, **of_rows).group_by(*keys)
    found = table.ask("products by group", query.agg(nw.len().alias("rows"), *(nw.col(name).sum() for name in of_rows)))
    assert factor.source is not None
    assert factor.groups is not None
    codes = factor.groups.encode(label_columns(replace(factor.source, columns=tuple(keys)), as_table(found), {}))
    if (codes >= factor.n_groups).any():
        refuse_other_rows(caller, "some of their groups were not seen in fit")
    sums = np.zeros((len(names), len(names), factor.n_groups))
    for a, b in pairs:
        sums[a, b, codes] = sums[b, a, codes] = as_numbers(found, f"p{a}_{b}")

    def by_group(name: str) -> np.ndarray:
        numbers = np.zeros(factor.n_groups)
        numbers[codes] = as_numbers(found, name)
        return numbers

    q = sum(name[0] == "z" for name in names)
    log_weight = by_group("log_weight") if weight else np.zeros(factor.n_groups)
    return GroupProducts(sums[:q, :q], sums[:q, q:], sums[q:, q:], by_group("rows"), log_weight)


def _require_same_rows(fitted: Fitted, products: GroupProducts, caller: str) -> None:
    """Raise unless the products add up to the sums of the fit."""
    assert fitted.model is not None
    kept = fitted.model.sums
    n_rows = float(products.copies.sum())
    if n_rows != kept.n:
        refuse_other_rows(caller, other_number(n_rows, kept.n))
    here = [products.xx.sum(axis=2), products.log_weight.sum()]
    before = [kept.xx, kept.log_weight]
    if len(kept.zz):
        here += [products.zz, products.zx]
        before += [kept.zz, kept.zx]
    if not all(map(is_close, here, before)):
        refuse_other_rows(caller, "their columns, groups, responses or standard errors are others")
