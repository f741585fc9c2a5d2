"""What a formula says: terms, grouping factors, correlated blocks. No data is needed here.

A formula comes from the user (`parse_formula` of `_parser`, with formulae's own scanner, parser and resolver) or is
written from column names (`write_formula`, which does not import formulae). Both give the same `ParsedFormula`.
"""

import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from hbsk._data.sources import find_column, selected_columns
from hbsk._messages import quoted, shown
from hbsk._model.expressions import INTERCEPT, Call, Name, Term, columns_in, show_name, term_label

FactorNames = tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """The terms that stand left of one `|`, for one grouping factor; the empty term is the intercept."""

    factor: FactorNames
    terms: tuple[Term, ...]
    correlated: bool = True


@dataclass(frozen=True)
class ParsedFormula:
    """A formula, by the names it uses.

    `text` is the formula as shown to the user; `common` leaves out the intercept and includes offsets; `bindings`
    says which column of X a name stands for, where that is not the column of the same name.
    """

    text: str
    response: str
    has_intercept: bool
    common: tuple[Term, ...]
    blocks: tuple[Block, ...]
    bindings: tuple[tuple[str, str], ...] = ()

    @cached_property
    def factors(self) -> tuple[FactorNames, ...]:
        """Grouping factors, each a tuple of names, in order of appearance."""
        return tuple(dict.fromkeys(block.factor for block in self.blocks))

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """Names read left of `|` or outside of group terms, in order of appearance."""
        terms = [*self.common, *(term for block in self.blocks for term in block.terms)]
        return tuple(dict.fromkeys(name for term in terms for part in term for name in columns_in(part)))

    @cached_property
    def factor_names(self) -> tuple[str, ...]:
        """Names right of `|`, in order of appearance."""
        return tuple(dict.fromkeys(name for factor in self.factors for name in factor))

    def column_of(self, name: str) -> str:
        """Return the column of X that a name stands for."""
        return dict(self.bindings).get(name, name)

    def without_correlation(self) -> "ParsedFormula":
        """Return the same terms, every varying column independent of the others."""
        return self._rewritten(tuple(replace(block, correlated=False) for block in self.blocks))

    def without_groups(self) -> "ParsedFormula":
        """Return the common part alone."""
        return self._rewritten(())

    def _rewritten(self, blocks: tuple[Block, ...]) -> "ParsedFormula":
        changed = replace(self, blocks=blocks)
        return self if _structure(changed) == _structure(self) else replace(changed, text=display(changed))


def _structure(parsed: ParsedFormula) -> list:
    """Return the blocks; a block that is one intercept has nothing to correlate, other terms may have columns."""
    plain = (INTERCEPT,)
    return [(b.factor, b.terms, b.correlated or b.terms == plain) for b in parsed.blocks]


# --------------------------------------------------------------------------------------------------------------------
# Text


def display(parsed: ParsedFormula) -> str:
    """Return the formula as text; names that formulae cannot read as they are stand in backquotes."""
    common = [term_label(term, show_name, parentheses=True) for term in parsed.common]
    if not parsed.has_intercept:
        common = ["0", *common]
    elif not common:
        common = ["1"]
    return " + ".join([f"{show_name(parsed.response)} ~ {common[0]}", *common[1:], *_block_texts(parsed.blocks)])


def as_common_terms(factors: Iterable[FactorNames]) -> str:
    """Return grouping factors as common terms of a formula."""
    return " + ".join(":".join(f"C({show_name(name)})" for name in names) for names in factors)


def _block_texts(blocks: Sequence[Block]) -> list[str]:
    texts = []
    for block in blocks:
        terms = [term_label(term, show_name, parentheses=True) for term in block.terms if term]
        if INTERCEPT not in block.terms:
            terms = ["0", *terms]
        elif not terms:
            terms = ["1"]
        bar = "|" if block.correlated or block.terms == (INTERCEPT,) else "||"
        texts.append(f"({' + '.join(terms)} {bar} {':'.join(map(show_name, block.factor))})")
    return texts


# --------------------------------------------------------------------------------------------------------------------
# From columns


def write_formula(
    columns: Sequence[str],
    factors: Iterable[FactorNames | str] = (),
    slope_features: Any = None,
    correlated: bool = True,
    response: str = "y",
    bindings: Mapping[str, str] | None = None,
) -> ParsedFormula:
    """Write the formula of an estimator without one: all features, a varying intercept and the slopes asked for.

    Parameters
    ----------
    columns : sequence of str
        Names of all columns of X.
    factors : iterable of str or tuple of str
        Grouping factors, crossed: columns of X, or names of labels that come from `groups=`.
    slope_features : str, int, sequence of these, "all", dict or None
        Features whose slope varies by group. A dict from factor to features where there are several factors.
    correlated : bool
        Whether the effects of one factor are correlated.
    response : str
        Name of y, for display; changed where a column has the same name.
    bindings : dict of str to str, optional
        Column of X behind a factor's name, where they differ ("school" found as "remainder__school").

    Returns
    -------
    ParsedFormula
    """
    columns = tuple(columns)
    grouped_by = tuple((factor,) if isinstance(factor, str) else tuple(factor) for factor in factors)
    bindings = {} if bindings is None else dict(bindings)
    grouping = {name for factor in grouped_by for name in factor}
    grouping |= {bindings.get(name, name) for name in grouping}
    features = tuple(column for column in columns if column not in grouping)
    slopes = _slopes_by_factor(slope_features, columns, features, grouped_by)
    blocks = tuple(
        Block(factor, (INTERCEPT, *((Name(name),) for name in slopes.get(factor, ()))), correlated)
        for factor in grouped_by
    )
    while response in columns or response in grouping:
        response = f"{response}_" if response.startswith("response") else "response"
    bound = tuple((name, column) for name, column in bindings.items() if name != column)
    parsed = ParsedFormula("", response, True, tuple((Name(name),) for name in features), blocks, bound)
    return replace(parsed, text=display(parsed))


def _slopes_by_factor(
    slope_features: Any, columns: tuple[str, ...], features: tuple[str, ...], factors: tuple[FactorNames, ...]
) -> dict[FactorNames, tuple[str, ...]]:
    # Without groups (they are optional in fit) there is nothing that could vary.
    if slope_features is None or not factors:
        return {}
    if isinstance(slope_features, Mapping):
        slopes = {}
        for key, selector in slope_features.items():
            factor = _factor_named(key, columns, factors)
            slopes[factor] = _slope_names(selector, columns, features)
        return slopes
    if len(factors) > 1:
        names = ", ".join(repr(":".join(factor)) for factor in factors)
        raise ValueError(
            f"slope_features={shown(slope_features)} does not say for which of the grouping factors {names} the slopes "
            "vary; pass a dict from factor to features."
        )
    return {factors[0]: _slope_names(slope_features, columns, features)}


def _factor_named(key: Any, columns: tuple[str, ...], factors: tuple[FactorNames, ...]) -> FactorNames:
    by_name = {":".join(factor): factor for factor in factors}
    if isinstance(key, numbers.Integral):
        key = next(iter(selected_columns(key, columns, "slope_features").values()))
    if isinstance(key, str) and key not in by_name:
        endings = [name for name in by_name if name.endswith(f"__{key}")]
        key = endings[0] if len(endings) == 1 else key
    if key not in by_name:
        raise ValueError(
            f"slope_features has the key {shown(key)}, which is no grouping factor; the factors are "
            f"{', '.join(map(repr, by_name))}."
        )
    return by_name[key]


def _slope_names(selector: Any, columns: tuple[str, ...], features: tuple[str, ...]) -> tuple[str, ...]:
    # A column may be called "all"; it is then meant by its name in a list.
    if isinstance(selector, str) and selector == "all":
        return features
    if selector is None:
        return ()
    names = tuple(selected_columns(selector, columns, "slope_features").values())
    for name in names:
        if name not in features:
            raise ValueError(f"slope_features names the grouping column {shown(name)}; slopes belong to features only.")
    return names


# --------------------------------------------------------------------------------------------------------------------
# Names against data


_NO_GROUPS_CAME = (
    "Put the labels into a column of X and name it in the formula, which works everywhere, or pass groups= to fit: "
    "GridSearchCV, cross_val_score and the like give it to the splitter only, unless "
    "sklearn.set_config(enable_metadata_routing=True) and set_fit_request(groups=True) say otherwise."
)


def bind_columns(parsed: ParsedFormula, columns: Sequence[str], group_names: Iterable[str] = ()) -> ParsedFormula:
    """Find the column of X behind every name of the formula.

    Parameters
    ----------
    parsed : ParsedFormula
    columns : sequence of str
        Columns of X.
    group_names : iterable of str
        Names of the labels passed as `groups=`; they may stand right of `|`.

    Raises
    ------
    ValueError
        For a name that is neither, with the list of what there is.
    """
    group_names = tuple(group_names)
    bindings = []
    for name in dict.fromkeys([*parsed.feature_names, *parsed.factor_names]):
        if name in group_names:
            if name in parsed.feature_names:
                raise ValueError(
                    f"formula={parsed.text!r} uses {shown(name)}, which was passed as groups=, as a feature; labels "
                    "passed as groups= can only stand right of `|`. Put the labels into X as a column to use them as "
                    "both."
                )
            continue
        if name == "groups" and name not in columns:
            raise ValueError(
                f"formula={parsed.text!r} uses 'groups', the labels passed to fit as groups=, but none were passed. "
                f"{_NO_GROUPS_CAME} Columns that arrived: {quoted(columns)}."
            )
        known = ""
        if group_names:
            known = f" Names passed as groups=: {', '.join(map(repr, group_names))}."
        elif name in parsed.factor_names and name not in parsed.feature_names:
            known = f" No groups= were passed either. {_NO_GROUPS_CAME}"
        try:
            column = find_column(columns, name, f"formula={parsed.text!r} uses {shown(name)}")
        except ValueError as error:
            raise ValueError(f"{error}{known}") from None
        if column != name:
            bindings.append((name, column))
    bound = dict(bindings)
    used = [bound.get(name, name) for name in dict.fromkeys([*parsed.feature_names, *parsed.factor_names])]
    if len(set(used)) < len(used):
        raise ValueError(
            f"formula={parsed.text!r} uses two names for one column of X ({dict(bindings)!r}); use one of them."
        )
    return replace(parsed, bindings=tuple(bindings))


def is_offset(term: Term) -> bool:
    """Return whether the term is `offset(...)`."""
    return len(term) == 1 and isinstance(term[0], Call) and term[0].function == "offset"
