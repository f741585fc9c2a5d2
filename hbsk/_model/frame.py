"""Training and new rows as the model sees them: who is a feature, who is a group, which columns follow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hbsk._data.factor import Factor
from hbsk._data.rows import LEAST_ROWS, FactorSource, Rows, read_rows, read_training_rows
from hbsk._data.sources import GROUPS, read_keyword
from hbsk._data.suspicions import warn_of_many_levels
from hbsk._data.table import Table
from hbsk._model.design import PopulationDesign, PredictedRows
from hbsk._model.expressions import Name
from hbsk._model.formula import ParsedFormula, bind_columns, write_formula
from hbsk._model.options import Options
from hbsk._model.specification import Specification, specify
from hbsk._model.swapped_sides import refuse_swapped_sides


@dataclass(frozen=True)
class ModelFrame:
    """What fit learns about the data's layout; small, picklable, enough to read new rows.

    Attributes
    ----------
    specification : Specification
        Of the model that is fitted (without groups where they are ignored).
    grouped : Specification
        With the groups, whether they are ignored or not.
    """

    specification: Specification
    grouped: Specification

    @property
    def factors(self) -> tuple[Factor, ...]:
        """The grouping factors, whether they are ignored or not."""
        return self.grouped.factors

    @property
    def ignores_groups(self) -> bool:
        """Whether there are groups that the fitted model does not look at."""
        return bool(self.grouped.factors) and not self.specification.factors


def read_training_frame(
    options: Options,
    table: Table,
    y,
    groups,
    standard_error=None,
    sample_weight=None,
    size=None,
    are_sizes=False,
    *,
    like: ModelFrame | None = None,
    are_declared: bool = False,
    min_samples: int = LEAST_ROWS,
) -> tuple[ModelFrame, Rows]:
    """Read what `fit` was given, find the groups, and settle the columns of the model.

    ``like`` is the frame of earlier rows, whose columns are kept; ``are_declared`` makes levels of all that a
    Categorical declares.
    """
    parsed, sources, used = None, None, None
    if options.formula is not None:
        from hbsk._model.parser import parse_formula  # imports formulae, which takes a while

        parsed = parse_formula(options.formula)
        parsed = bind_columns(parsed, table.names, read_keyword(groups, table))
        refuse_swapped_sides(parsed, table)
        sources = [source_of(factor) for factor in parsed.factors]
        used = tuple(dict.fromkeys(parsed.column_of(name) for name in parsed.feature_names))
    rows = read_training_rows(
        table,
        y,
        groups,
        name=options.name,
        group_features=options.group_features,
        sources=sources,
        standard_error=standard_error,
        sample_weight=sample_weight,
        size=size,
        are_sizes=are_sizes,
        used_columns=used,
        min_samples=min_samples,
    )
    if parsed is None:
        sources = [factor.source for factor in rows.factors if factor.source is not None]
        parsed = written_formula(options, rows.features.names, sources)
    if not options.correlated:
        parsed = parsed.without_correlation()
    if like is not None:
        grouped = _with_groups(like.grouped, rows)
        return ModelFrame(like.specification if like.ignores_groups else grouped, grouped), rows
    weight = rows.sample_weight
    grouped = specify(parsed, rows.features, sample_weight=weight, are_declared=are_declared)
    grouped = _with_groups(grouped, rows)
    warn_of_many_levels(_category_columns(grouped), rows.n_rows)
    specification = grouped
    if options.pooling == "complete" and parsed.blocks:
        parsed = parsed.without_groups()
        specification = specify(parsed, rows.features, sample_weight=weight, are_declared=are_declared)
    return ModelFrame(specification, grouped), rows


def _category_columns(specification: Specification) -> list[tuple[str, tuple]]:
    """Return the columns of X that are categories by themselves, and their levels."""
    recipe = specification.recipe
    found = {
        component.expression.column: component.levels
        for component in recipe.components()
        if component.levels is not None and isinstance(component.expression, Name)
    }
    return [(recipe.bindings.get(name, name), levels) for name, levels in found.items()]


def factors_in(formula: str, columns: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return the grouping factors of a formula, each the columns of X that its labels are made of."""
    from hbsk._model.parser import parse_formula  # imports formulae, which takes a while

    return bind_columns(parse_formula(formula), columns, ()).factors


def _with_groups(specification: Specification, rows: Rows) -> Specification:
    """Give the factors, which a formula knows by their terms, the labels that were read."""
    factors = tuple(
        replace(factor, source=read.source, groups=read.groups)
        for factor, read in zip(specification.factors, rows.factors, strict=True)
    )
    return replace(specification, factors=factors)


def source_of(factor: tuple[str, ...]) -> FactorSource:
    """Return where the labels of a factor of a formula are, by the names that it uses."""
    return FactorSource(":".join(factor), factor)


def written_formula(options: Options, columns: Sequence[str], sources: Iterable[FactorSource]) -> ParsedFormula:
    """Write the formula of an estimator without one, for columns of X and where labels are found."""
    factors, bindings = [], {}
    for source in sources:
        factors.append((source.name,))
        if source.columns and not source.keyword:
            bindings[source.name] = source.columns[0]
    return write_formula(columns, factors, options.slope_features, options.correlated, bindings=bindings)


def read_new_rows(
    options: Options, frame: ModelFrame, table: Table, groups, standard_error=None, y=None
) -> tuple[PredictedRows, Rows]:
    """Read rows for a method after fit."""
    if frame.ignores_groups:
        # The labels change nothing; they may be there or not, as in fit or not.
        groups = None
    rows = read_rows(
        table,
        groups,
        name=options.name,
        factors=frame.specification.factors,
        unknown_groups=options.unknown_groups,
        standard_error=standard_error,
        used_columns=frame.specification.feature_columns,
        y=y,
    )
    design = frame.specification.design(rows.features)
    design.warn_beyond_knots()
    return PredictedRows(design, rows.codes, rows.standard_error), rows


def read_population_rows(
    options: Options, frame: ModelFrame, table: Table, effect_mean: np.ndarray | None, standard_error=None
) -> tuple[PredictedRows, Rows]:
    """Read rows whose labels are not looked at: the effects of their groups are the mean of the population."""
    specification = frame.specification
    rows = read_rows(
        table,
        name=options.name,
        factors=(),
        standard_error=standard_error,
        used_columns=specification.feature_columns,
    )
    design = specification.design(rows.features)
    design.warn_beyond_knots()
    codes = [np.zeros(rows.n_rows, dtype=np.int64) for _ in specification.factors]
    return PredictedRows(PopulationDesign(design, effect_mean), codes, rows.standard_error), rows


def unknown_rows(rows: Rows) -> np.ndarray:
    """Return which rows belong to a group, of any factor, that fit has not seen."""
    unknown = np.zeros(rows.n_rows, dtype=bool)
    for mask in rows.unknown:
        unknown |= mask
    return unknown


__all__ = ["GROUPS", "ModelFrame", "read_new_rows", "read_population_rows", "read_training_frame", "unknown_rows"]
