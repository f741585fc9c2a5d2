"""Expressions of a formula as plain, picklable, hashable data, and the functions they may call.

Nothing here knows rows of data or formulae's classes: an expression is a tree of column names, numbers,
operators and calls of listed functions. `label` gives the text formulae prints for it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True, slots=True)
class Name:
    """A column, by the name the formula uses for it."""

    column: str


@dataclass(frozen=True, slots=True)
class Value:
    """A number, string or True/False/None; `text` is how formulae prints it."""

    value: Any
    text: str


@dataclass(frozen=True, slots=True)
class Operation:
    """A unary or binary operator inside a call."""

    symbol: str
    operands: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Call:
    """A call of one of the listed functions."""

    function: str
    arguments: tuple["Expression", ...]
    keywords: tuple[tuple[str, "Expression"], ...] = ()


Expression = Name | Value | Operation | Call
# A term is the interaction of its components; the empty term is the intercept.
Term = tuple[Expression, ...]
INTERCEPT: Term = ()

STATEFUL = {
    "center": ("x",),
    "scale": ("x",),
    "standardize": ("x",),
    "poly": ("x", "degree", "raw"),
    "bs": ("x", "df", "knots", "degree", "intercept", "lower_bound", "upper_bound"),
}
CATEGORICAL = {"C": ("data", "contrast"), "S": ("data", "omit"), "T": ("data", "ref")}
# Arguments of `Treatment("b")` and `Sum("b")`, which may stand only as the contrast of C().
CONTRASTS = ("Treatment", "Sum")
# fmt: off
_UNARY = (
    "abs", "absolute", "fabs", "sign", "negative", "reciprocal", "square", "sqrt", "cbrt",
    "exp", "exp2", "expm1", "log", "log2", "log10", "log1p",
    "sin", "cos", "tan", "arcsin", "arccos", "arctan", "sinh", "cosh", "tanh", "arcsinh", "arccosh", "arctanh",
    "deg2rad", "rad2deg", "degrees", "radians", "floor", "ceil", "trunc", "rint",
)
_BINARY = (
    "power", "hypot", "arctan2", "maximum", "minimum", "fmax", "fmin", "logaddexp", "mod", "fmod", "heaviside",
)
# fmt: on
# The number of arguments is fixed because the next positional argument of a NumPy ufunc is `out`:
# np.sqrt(x, z) would write into the user's column z.
ELEMENTWISE = (
    dict.fromkeys(["log", "log2", "log10", "exp", "exp2", "abs", "I"], 1)
    | {f"np.{name}": 1 for name in _UNARY}
    | {f"np.{name}": 2 for name in _BINARY}
    | {"np.clip": 3, "np.where": 3}
)
FUNCTIONS = (*STATEFUL, *CATEGORICAL, "offset", *ELEMENTWISE)

_REFUSED = {
    "weighted": "pass the weights as fit(X, y, sample_weight=...)",
    "hsgp": "Gaussian processes are not supported",
    "HSGP": "Gaussian processes are not supported",
    **dict.fromkeys(
        ("censored", "truncated", "constrained", "counts", "c", "proportion", "prop", "p", "binary", "B"),
        "it describes a response that is not Gaussian, which is not supported",
    ),
}


def refuse_function(name: str, formula: str) -> ValueError:
    """Return the error for a function that is not listed."""
    reason = f"; {_REFUSED[name]}" if name in _REFUSED else ""
    return ValueError(
        f"formula={formula!r} calls {name!r}, which a formula may not call{reason}. "
        f"Functions of your own program are never looked up: compute such columns before fit, or use one of "
        f"{', '.join(FUNCTIONS)}."
    )


def arguments_of(call: Call) -> dict[str, Expression]:
    """Return the arguments of a stateful or categorical call by parameter name."""
    parameters = STATEFUL.get(call.function) or CATEGORICAL[call.function]
    return dict(zip(parameters, call.arguments, strict=False)) | dict(call.keywords)


def constant(expression: Expression) -> Any:
    """Return the value of an argument such as 3, "b" or -1.5; TypeError when it is no constant."""
    match expression:
        case Value(value=value):
            return value
        case Operation(symbol="-", operands=(Value(value=value),)) if not isinstance(value, str | None):
            return -value
    raise TypeError


def check_call(call: Call, formula: str, *, outermost: bool) -> None:
    """Refuse unlisted functions, wrong numbers of arguments and misplaced calls."""
    name, n_given = call.function, len(call.arguments) + len(call.keywords)
    if name not in FUNCTIONS:
        raise refuse_function(name, formula)
    if not outermost and (name in CATEGORICAL or name == "offset"):
        raise ValueError(f"formula={formula!r}: {name}() cannot stand inside another call; use it as a term.")
    if name in ELEMENTWISE or name == "offset":
        n_wanted = ELEMENTWISE.get(name, 1)
        if call.keywords or n_given != n_wanted:
            raise ValueError(
                f"formula={formula!r}: {name}() takes {n_wanted} argument(s) and no keywords, got {label(call)!r}."
            )
        return
    parameters = STATEFUL.get(name) or CATEGORICAL[name]
    keywords = [key for key, _ in call.keywords]
    free = parameters[len(call.arguments) :]
    if not call.arguments or len(call.arguments) > len(parameters) or any(key not in free for key in keywords):
        raise ValueError(
            f"formula={formula!r}: the arguments of {label(call)!r} do not fit; {name}() takes "
            f"({', '.join(parameters)}), the first one without its name."
        )
    for key, value in list(arguments_of(call).items())[1:]:
        if key == "contrast":
            check_contrast(value, formula)
            continue
        try:
            constant(value)
        except TypeError:
            raise ValueError(
                f"formula={formula!r}: {key}= of {name}() must be a number or a string, got {label(value)!r}."
            ) from None


def check_contrast(expression: Expression, formula: str) -> None:
    """Accept Treatment, Sum, Treatment("b") and Sum("b")."""
    match expression:
        case Name(column=name) if name in CONTRASTS:
            return
        case Call(function=name, arguments=(Value(),), keywords=()) if name in CONTRASTS:
            return
    raise ValueError(
        f"formula={formula!r}: the contrast of C() must be Treatment, Sum, Treatment(level) or Sum(level), "
        f"got {label(expression)!r}."
    )


def children(expression: Expression) -> Iterator[Expression]:
    """Yield subexpressions that are evaluated on rows: neither constants of a call nor its contrast."""
    if isinstance(expression, Operation):
        yield from expression.operands
    elif isinstance(expression, Call):
        if expression.function in STATEFUL or expression.function in CATEGORICAL:
            yield expression.arguments[0]
        else:
            yield from expression.arguments


def walk(expression: Expression) -> Iterator[Expression]:
    """Yield all subexpressions, inner ones first, the expression itself last."""
    for child in children(expression):
        yield from walk(child)
    yield expression


def columns_in(expression: Expression) -> list[str]:
    """List names of the columns the expression reads, in order of appearance."""
    return list(dict.fromkeys(part.column for part in walk(expression) if isinstance(part, Name)))


def same(text: str) -> str:
    """Return the name itself."""
    return text


def label(expression: Expression, show: Callable[[str], str] = same, *, parentheses: bool = False) -> str:
    """Return the text of an expression, as formulae prints it, with names passed through `show`.

    formulae drops the parentheses of nested operations; `parentheses=True` keeps them, for text that is read again.
    """
    match expression:
        case Name(column=column):
            return show(column)
        case Value(text=text):
            return text
        case Operation(symbol=symbol, operands=operands):
            parts = [_operand(part, show, parentheses) for part in operands]
            return f"{symbol}{parts[0]}" if len(parts) == 1 else f" {symbol} ".join(parts)
    parts = []
    keywords = list(expression.keywords)
    for position, part in enumerate(expression.arguments):
        parts.append(_argument(expression, position, part, show, parentheses))
    parts += [f"{key}={_argument(expression, key, part, show, parentheses)}" for key, part in keywords]
    return f"{expression.function}({', '.join(parts)})"


def _operand(part: Expression, show: Callable[[str], str], parentheses: bool) -> str:
    """Return an operand, in parentheses where they are asked for and it is an operation itself."""
    text = label(part, show, parentheses=parentheses)
    return f"({text})" if parentheses and isinstance(part, Operation) else text


def _argument(call: Call, place: int | str, part: Expression, show: Callable[[str], str], parentheses: bool) -> str:
    """Return an argument; the contrast of C() is no column and keeps its name."""
    is_contrast = call.function == "C" and place in (1, "contrast")
    return label(part, same if is_contrast else show, parentheses=parentheses)


def term_label(term: Term, show: Callable[[str], str] = same, *, parentheses: bool = False) -> str:
    """Return the text of a term: components joined by colons; "Intercept" for the empty term."""
    if not term:
        return "Intercept"
    return ":".join(label(part, show, parentheses=parentheses) for part in term)


@lru_cache(maxsize=4096)
def is_plain(name: str) -> bool:
    """Return whether formulae's scanner reads the name as one identifier without backquotes."""
    if not name or not name[0].isalpha() or name in ("True", "False", "None"):
        return False
    return all(char.isalnum() or char in "._" for char in name)


def quote(name: str) -> str:
    """Return the name in backquotes; one inside it is doubled."""
    return "`" + name.replace("`", "``") + "`"


def show_name(name: str) -> str:
    """Return the name as it may stand in a formula."""
    return name if is_plain(name) else quote(name)
