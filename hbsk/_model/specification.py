"""From a parsed formula and training rows to the columns of the model: names, coding of categories, recipes.

formulae decides which categories are coded in full; all else is plain data that pickles and evaluates without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import product

import numpy as np
import pandas as pd

from hbsk._data.checks import check_digits
from hbsk._data.factor import Factor
from hbsk._data.table import Table
from hbsk._model.design import Component, Design, Recipe, TermRecipe, compute, is_text, native, term_width, values_of
from hbsk._model.expressions import (
    CATEGORICAL,
    INTERCEPT,
    STATEFUL,
    Call,
    Expression,
    Name,
    Term,
    Value,
    arguments_of,
    is_plain,
    label,
    quote,
    show_name,
    term_label,
    walk,
)
from hbsk._model.formula import ParsedFormula, is_offset
from hbsk._model.transforms import find_state

# Keys of `priors` and names of columns that mean something else than a column of that name.
RESERVED = frozenset({"Intercept", "1", "sigma", "common", "group_specific"})
# Rows shown to a call to learn how many columns it makes.
_HEAD = 8


@dataclass(frozen=True, eq=False)
class Specification:
    """The columns of a fitted model as plain data; pickles, and evaluates new rows without formulae or Bambi."""

    formula: str
    response: str
    has_intercept: bool
    common_columns: tuple[str, ...]
    common_terms: tuple[str, ...]
    factors: tuple[Factor, ...]
    feature_names: tuple[str, ...]
    # Other spellings of a term, for keys of `priors`.
    aliases: dict[str, str]
    # Terms that have no column here, such as a categorical with a single level beside an intercept.
    empty_terms: tuple[str, ...]
    recipe: Recipe = field(repr=False)

    @property
    def bindings(self) -> dict[str, str]:
        """Return the column of X behind each name, where they differ."""
        return self.recipe.bindings

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """Return the columns of X that are read as features."""
        return tuple(self.bindings.get(name, name) for name in self.feature_names)

    def design(self, features: Table) -> Design:
        """Return the design of some rows.

        Raises
        ------
        ValueError
            For a level of a categorical column that fit has not seen.
        """
        return Design(self.recipe, features)


def specify(
    parsed: ParsedFormula, features: Table, *, sample_weight: np.ndarray | None = None, are_declared: bool = False
) -> Specification:
    """Settle every column of a model on its training rows.

    Parameters
    ----------
    parsed : ParsedFormula
        With its names bound to columns (`bind_columns`) and correlation settled (`without_correlation`).
    features : Table
        All columns of X.
    sample_weight : ndarray of shape (n,), optional
        Copies of each row; levels and transforms are those of the copies.
    are_declared : bool, default=False
        Whether all levels that a Categorical declares count, not only those that occur.

    Returns
    -------
    Specification
    """
    bindings = dict(parsed.bindings)
    expressions = _expressions(parsed)
    plain = {part: bindings.get(part.column, part.column) for part in expressions if isinstance(part, Name)}
    if len(plain) < len(expressions) or not all(map(features.is_numeric, plain.values())):
        return settle(parsed, RecipeReader(features, bindings, sample_weight, are_declared=are_declared))
    for name, column in plain.items():
        check_digits(features.numbers(column), f"Column {name.column!r} of X")
    made: dict[Expression, Component] = {name: Component(name, (name.column,)) for name in plain}
    common, varying_terms = _common_terms(parsed), _terms_by_factor(parsed)
    recipes = tuple(_plain_recipe(term, made) for term in common)
    varying = tuple(tuple(_plain_recipe(term, made) for term in terms) for terms in varying_terms)
    return _assembled(parsed, common, recipes, varying, {})


def settle(parsed: ParsedFormula, reader: RecipeReader) -> Specification:
    """Settle every column of a model by what a reader finds out about its components.

    Parameters
    ----------
    parsed : ParsedFormula
        As for `specify`.
    reader : RecipeReader
        Of rows in memory, or elsewhere.
    """
    for part in sorted(_expressions(parsed), key=label):
        reader.learn(part)
    common, recipes = _common_recipes(_common_terms(parsed), parsed.has_intercept, reader)
    varying = tuple(_varying_recipes(terms, reader) for terms in _terms_by_factor(parsed))
    return _assembled(parsed, common, recipes, varying, reader.states)


def _assembled(parsed: ParsedFormula, common, recipes, varying, states: dict) -> Specification:
    """Add the intercept and offsets, and the names."""
    ones: tuple[TermRecipe, ...] = ((),) if parsed.has_intercept else ()
    offsets = tuple(term[0] for term in parsed.common if is_offset(term))
    recipe = Recipe(ones + recipes, varying, offsets, states, dict(parsed.bindings))
    common = (INTERCEPT, *common) if parsed.has_intercept else common
    return _named(parsed, common, _terms_by_factor(parsed), recipe)


def _expressions(parsed: ParsedFormula) -> set[Expression]:
    return {part for terms in (parsed.common, *_terms_by_factor(parsed)) for term in terms for part in term}


def _common_terms(parsed: ParsedFormula) -> tuple[Term, ...]:
    return tuple(term for term in parsed.common if not is_offset(term))


def _plain_recipe(term: Term, made: dict[Expression, Component]) -> TermRecipe:
    return tuple(made[part] for part in term)


def _terms_by_factor(parsed: ParsedFormula) -> tuple[tuple[Term, ...], ...]:
    return tuple(
        tuple(term for block in parsed.blocks if block.factor == factor for term in block.terms)
        for factor in parsed.factors
    )


# --------------------------------------------------------------------------------------------------------------------
# What the training rows say about components


class RecipeReader:
    """Kinds, levels, widths and states of components, learnt from the training rows."""

    def __init__(
        self,
        features: Table,
        bindings: dict[str, str],
        weight: np.ndarray | None,
        *,
        are_declared: bool = False,
    ):
        self.are_declared = are_declared
        self.features = features
        self.bindings = bindings
        self.weight = weight
        self.states: dict[Call, dict] = {}
        self.levels: dict[Expression, tuple | None] = {}
        self.widths: dict[Expression, int] = {}

    def raw(self, name: str) -> np.ndarray | pd.Series:
        return self.features.column(self.bindings.get(name, name))

    def read(self, name: str) -> np.ndarray:
        column = self.raw(name)
        if isinstance(column, np.ndarray) and column.dtype == np.uint64:  # which arithmetic takes as floats
            check_digits(column, f"Column {name!r} of X")
        return native(column)

    def head(self, name: str) -> np.ndarray:
        return native(self.raw(name)[:_HEAD])

    def learn(self, expression: Expression) -> None:
        """Find the states inside an expression, then its levels or its number of columns."""
        for part in walk(expression):
            if isinstance(part, Call) and part.function in STATEFUL and part not in self.states:
                argument = compute(part.arguments[0], self.read, self.states)
                self.states[part] = find_state(part, argument, self.weight)
        if is_offset((expression,)):
            self.check_offset(expression)
            return
        self.levels[expression] = None
        if isinstance(expression, Name):
            column = self.raw(expression.column)
            self.widths[expression] = 1
            if isinstance(column, pd.Series):
                self.levels[expression] = self.levels_of(expression, column)
            else:
                check_digits(column, f"Column {expression.column!r} of X")
        elif isinstance(expression, Call) and expression.function in CATEGORICAL:
            coded = expression.arguments[0]
            values = self.raw(coded.column) if isinstance(coded, Name) else compute(coded, self.read, self.states)
            self.levels[expression] = self.find_levels(values, label(expression))
        else:
            head = values_of(expression, self.head, self.states)
            if head.dtype.kind in "biuf":
                self.widths[expression] = head.shape[1] if head.ndim == 2 else 1
            else:
                values = compute(expression, self.read, self.states)
                self.levels[expression] = self.find_levels(values, label(expression))

    def levels_of(self, name: Name, column: pd.Series) -> tuple:
        """Return the levels of a column of X, whose texts the design looks up again."""
        if is_text(column) and (self.weight is None or self.weight.all()):
            codes, texts = self.features.texts(self.bindings.get(name.column, name.column))
            return in_order([None] * bool((codes < 0).any()) + texts, label(name), ordered=False)
        return self.find_levels(column, label(name))

    def check_offset(self, expression: Expression) -> None:
        head = values_of(expression, self.head, self.states)
        if head.dtype.kind not in "biuf" or head.ndim > 1:
            raise ValueError(f"{label(expression)!r} in the formula must be numeric.")

    def find_levels(self, values: np.ndarray | pd.Series, name: str) -> tuple:
        """Return the observed levels: in their own order where that is given, else sorted as formulae sorts them."""
        if self.weight is not None:
            values = values[self.weight > 0]
        ordered = False
        if isinstance(values, pd.Series) and isinstance(values.dtype, pd.CategoricalDtype):
            ordered = bool(values.cat.ordered)
            codes = np.unique(values.cat.codes)
            kept = slice(None) if self.are_declared else codes[codes >= 0]
            found = [None] * bool(codes[0] < 0) + values.cat.categories[kept].tolist()
        else:
            found = pd.unique(np.asarray(values, dtype=object) if isinstance(values, pd.Series) else values).tolist()
        return in_order(found, name, ordered=ordered)

    def component(self, expression: Expression, *, full: bool) -> Component:
        """Return the component with its columns; `full` codes every level."""
        levels = self.levels[expression]
        text = label(expression)
        if levels is None:
            width = self.widths[expression]
            labels = (text,) if width == 1 else tuple(f"{text}[{i}]" for i in range(width))
            return Component(expression, labels)
        contrast, names = _contrast(expression, levels, full=full)
        return Component(expression, tuple(f"{text}[{name}]" for name in names), levels, contrast)


def in_order(levels: list, name: str, *, ordered: bool) -> tuple:
    """Return levels sorted, as formulae sorts them, unless they are in an order of their own."""
    if any(type(level) is not str and pd.isna(level) for level in levels):
        raise ValueError(f"The categorical column {name!r} has missing values; fill them in or drop the rows.")
    if not ordered:
        with suppress(TypeError):  # levels that do not sort keep their order of appearance
            levels = sorted(levels)
    return tuple(levels)


def _contrast(expression: Expression, levels: tuple, *, full: bool) -> tuple[np.ndarray, list[str]]:
    """Return a matrix with one row for each level and the labels of its columns, as formulae codes them."""
    kind, special = _contrast_asked(expression)
    if special is not None and special not in levels:
        raise ValueError(
            f"{label(expression)!r} in the formula names {special!r}, which is no level of the column. "
            f"Levels: {', '.join(map(repr, levels))}."
        )
    names = [str(level) for level in levels]
    eye = np.eye(len(levels))
    if kind == "Treatment":
        if full:
            return eye, names
        reference = 0 if special is None else levels.index(special)
        return eye[:, np.arange(len(levels)) != reference], names[:reference] + names[reference + 1 :]
    omitted = len(levels) - 1 if special is None else levels.index(special)
    matrix = np.delete(eye, omitted, axis=1)
    matrix[omitted] = -1.0
    names = names[:omitted] + names[omitted + 1 :]
    if full:
        return np.column_stack([np.ones(len(levels)), matrix]), ["mean", *names]
    return matrix, names


def _contrast_asked(expression: Expression) -> tuple[str, object]:
    """Return "Treatment" or "Sum", and the level it treats specially."""
    if not isinstance(expression, Call) or expression.function not in CATEGORICAL:
        return "Treatment", None
    asked = [*arguments_of(expression).values()][1:]
    if expression.function == "C":
        match asked:
            case [Name(column=kind)]:
                return kind, None
            case [Call(function=kind, arguments=(Value(value=level),))]:
                return kind, level
        return "Treatment", None
    kind = "Sum" if expression.function == "S" else "Treatment"
    return kind, asked[0].value if asked and isinstance(asked[0], Value) else None


# --------------------------------------------------------------------------------------------------------------------
# Coding of categories: full or reduced


def _common_recipes(
    terms: tuple[Term, ...], has_intercept: bool, reader: RecipeReader
) -> tuple[tuple[Term, ...], tuple[TermRecipe, ...]]:
    """Return the common terms, with those formulae adds for full rank, and their recipes."""
    full = list(terms)
    codings = _codings(full, has_intercept, reader)
    for term, of_term in codings.items():
        for coding in of_term[:-1]:
            numeric = [part for part in term if reader.levels[part] is None]
            full.insert(full.index(term), (*[part for part in term if part in coding], *numeric))
    if len(full) > len(terms):
        codings = _codings(full, has_intercept, reader)
    recipes = []
    for term in full:
        ways = codings.get(term, [{}])
        if not ways:
            raise ValueError(f"The term {term_label(term)!r} of the formula is contained in the terms before it.")
        recipes.append(tuple(reader.component(part, full=ways[0].get(part, False)) for part in term))
    return tuple(full), tuple(recipes)


def _codings(terms: list[Term], has_intercept: bool, reader: RecipeReader) -> dict[Term, list[dict[Expression, bool]]]:
    """Ask formulae which categories span the intercept, for every term that has any.

    Terms are grouped by their numeric part, as formulae groups them; within a group its algorithm decides.
    """
    groups: dict[frozenset[Expression], dict[Term, tuple[Expression, ...]]] = {}
    groups[frozenset()] = {INTERCEPT: ()} if has_intercept else {}
    for term in terms:
        categoric = tuple(part for part in term if reader.levels[part] is not None)
        numeric = tuple(part for part in term if reader.levels[part] is None)
        if not categoric:
            continue
        group = groups.setdefault(frozenset(numeric), {})
        if numeric and numeric in terms:
            group.setdefault(numeric, ())
        group[term] = categoric
    if not any(group.keys() - {INTERCEPT} for group in groups.values()):
        return {}
    from formulae.contrasts import pick_contrasts

    codings: dict[Term, list[dict[Expression, bool]]] = {}
    for group in groups.values():
        # Numbers instead of expressions: formulae sorts tuples that hold them.
        parts = list(dict.fromkeys(part for group_parts in group.values() for part in group_parts))
        numbered = {term: tuple(parts.index(part) for part in group_parts) for term, group_parts in group.items()}
        for term, found in pick_contrasts(numbered).items():
            codings[term] = [{parts[i]: full for i, full in coding.items()} for coding in found]
    return {term: coding for term, coding in codings.items() if any(reader.levels[part] is not None for part in term)}


def _varying_recipes(terms: tuple[Term, ...], reader: RecipeReader) -> tuple[TermRecipe, ...]:
    # formulae's rule: reduced coding beside a varying intercept of the same factor, in whatever parentheses.
    full = INTERCEPT not in terms
    return tuple(tuple(reader.component(part, full=full) for part in term) for term in terms)


# --------------------------------------------------------------------------------------------------------------------
# Names


def _named(
    parsed: ParsedFormula, common: tuple[Term, ...], varying: tuple[tuple[Term, ...], ...], recipe: Recipe
) -> Specification:
    names = tuple(dict.fromkeys([*parsed.feature_names, *parsed.factor_names]))
    quoted = {name for name in names if name in RESERVED}
    keys = _Keys(parsed, common, varying, recipe, quoted)
    if keys.ambiguous():
        quoted |= {name for name in names if not is_plain(name) or name in ("corr", "centre")}
        keys = _Keys(parsed, common, varying, recipe, quoted)
        if keys.ambiguous():
            raise ValueError(
                f"formula={parsed.text!r} has several terms or columns called {keys.ambiguous()[0]!r} "
                "(parentheses inside a call are not part of a name); write one of them differently, or compute it "
                "as a column of X before fit."
            )
    return Specification(
        formula=parsed.text,
        response=parsed.response,
        has_intercept=parsed.has_intercept,
        common_columns=tuple(name for names in keys.common_columns for name in names),
        common_terms=tuple(
            name for name, names in zip(keys.common_terms, keys.common_columns, strict=True) for _ in names
        ),
        factors=keys.factors,
        feature_names=parsed.feature_names,
        aliases=keys.other_spellings(show_name) | keys.other_spellings(quote),
        empty_terms=keys.empty,
        recipe=recipe,
    )


class _Keys:
    """Names of terms and columns when the names in `quoted` stand in backquotes."""

    def __init__(
        self,
        parsed: ParsedFormula,
        common: tuple[Term, ...],
        varying: tuple[tuple[Term, ...], ...],
        recipe: Recipe,
        quoted: set[str],
    ):
        self.terms = common
        self.varying = varying
        self.factor_parts = parsed.factors
        show = _quoting(quoted)
        self.common_terms = [term_label(term, show) for term in common]
        self.common_columns = [
            _column_labels(term, recipes, show) for term, recipes in zip(common, recipe.common, strict=True)
        ]
        self.varying_terms = [self._varying_labels(terms, factor, show) for terms, factor in self._by_factor()]
        self.factors = tuple(self._factor_terms(parsed, i, recipe.varying[i], show) for i in range(len(parsed.factors)))
        empty = [name for name, columns in zip(self.common_terms, self.common_columns, strict=True) if not columns]
        for names, recipes in zip(self.varying_terms, recipe.varying, strict=True):
            empty += [name for name, term in zip(names, recipes, strict=True) if term_width(term) == 0]
        self.empty = tuple(empty)

    def _by_factor(self) -> Iterable[tuple[tuple[Term, ...], tuple[str, ...]]]:
        return zip(self.varying, self.factor_parts, strict=True)

    @staticmethod
    def _varying_labels(terms: tuple[Term, ...], factor: tuple[str, ...], show: Callable[[str], str]) -> list[str]:
        right = ":".join(factor)
        return [f"{term_label(term, show) if term else '1'}|{right}" for term in terms]

    def _factor_terms(
        self, parsed: ParsedFormula, i: int, recipes: tuple[TermRecipe, ...], show: Callable[[str], str]
    ) -> Factor:
        columns: list[str] = []
        terms: list[str] = []
        positions: dict[Term, range] = {}
        for term, parts, name in zip(self.varying[i], recipes, self.varying_terms[i], strict=True):
            labels = _column_labels(term, parts, show) if term else ("1",)
            positions[term] = range(len(columns), len(columns) + len(labels))
            columns += labels
            terms += [name] * len(labels)
        blocks: list[tuple[int, ...]] = []
        for block in parsed.blocks:
            if block.factor == self.factor_parts[i]:
                members = tuple(k for term in block.terms for k in positions[term])
                blocks += [members] if block.correlated and members else [(k,) for k in members]
        # Never quoted: group codes are looked up by this name.
        return Factor(":".join(self.factor_parts[i]), tuple(columns), tuple(terms), tuple(blocks))

    def ambiguous(self) -> list[str]:
        """Return the names that stand for two things."""
        keys = self.common_terms + [name for names in self.varying_terms for name in names]
        keys += [f"{kind}|{factor.name}" for factor in self.factors for kind in ("corr", "centre")]
        lists = [keys, [name for names in self.common_columns for name in names]]
        lists += [[factor.name for factor in self.factors], *([*factor.columns] for factor in self.factors)]
        return [name for names in lists if len(set(names)) < len(names) for name in names if names.count(name) > 1]

    def other_spellings(self, show: Callable[[str], str]) -> dict[str, str]:
        """Return the terms by the names they have when columns are called `show(column)`."""
        found = dict(zip((term_label(term, show) for term in self.terms), self.common_terms, strict=True))
        for names, (terms, factor) in zip(self.varying_terms, self._by_factor(), strict=True):
            right = tuple(map(show, factor))
            found.update(zip(self._varying_labels(terms, right, show), names, strict=True))
        for of_factor, parts in zip(self.factors, self.factor_parts, strict=True):
            for kind in ("corr", "centre"):
                found[f"{kind}|{':'.join(map(show, parts))}"] = f"{kind}|{of_factor.name}"
        return found


def _quoting(quoted: set[str]) -> Callable[[str], str]:
    return lambda name: quote(name) if name in quoted else name


def _column_labels(term: Term, recipe: TermRecipe, show: Callable[[str], str]) -> tuple[str, ...]:
    """Return the labels of a term's columns; those of components were made with plain names."""
    if not term:
        return ("Intercept",)
    parts = []
    for component in recipe:
        plain, shown = label(component.expression), label(component.expression, show)
        parts.append([shown + text[len(plain) :] for text in component.labels])
    return tuple(":".join(labels) for labels in product(*parts))
