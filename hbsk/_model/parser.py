"""Read a user's formula with formulae's scanner, parser and resolver.

Calls are taken out of the syntax tree before formulae resolves it and are put back as our own expressions: no function
is ever looked up, nothing is evaluated, and formulae's set algebra of terms sees plain names only.
"""

from dataclasses import replace
from functools import lru_cache
from typing import Any

from formulae import expr as syntax
from formulae.parser import Parser
from formulae.resolver import Resolver
from formulae.scanner import ScanError, Scanner
from formulae.terms import Intercept, Model, NegatedIntercept
from formulae.terms import Term as FormulaeTerm
from formulae.token import Token

from hbsk._messages import shown
from hbsk._model.expressions import (
    CONTRASTS,
    INTERCEPT,
    Call,
    Expression,
    Name,
    Operation,
    Term,
    Value,
    check_call,
    label,
    show_name,
)
from hbsk._model.formula import Block, FactorNames, ParsedFormula, is_offset

_OPERATORS = {
    "PLUS": "+",
    "MINUS": "-",
    "STAR": "*",
    "SLASH": "/",
    "STAR_STAR": "**",
    "EQUAL_EQUAL": "==",
    "BANG_EQUAL": "!=",
    "LESS": "<",
    "LESS_EQUAL": "<=",
    "GREATER": ">",
    "GREATER_EQUAL": ">=",
}


def parse_formula(formula: str) -> ParsedFormula:
    """Read a formula in Bambi's language.

    Raises
    ------
    TypeError, ValueError
        When it is no string, does not parse, calls an unlisted function, or says something no model follows from.
    """
    if not isinstance(formula, str):
        raise TypeError(f"formula must be a string such as 'y ~ x + (x | g)' or None, got {shown(formula)}.")
    return _read(formula)


@lru_cache(maxsize=256)
def _read(formula: str) -> ParsedFormula:
    """Read a formula; cached, since a grid search reads the same text in every fit."""
    return _FormulaReader(formula).read()


class _Scanner(Scanner):
    """formulae's scanner, for which two backquotes in a quoted name are one backquote of the name."""

    def backquote(self):
        while self.peek() != "`" or self.peek_next() == "`":
            self.current += 1 if self.peek() != "`" else 2
            if self.at_end():
                raise ScanError("a backquote is not closed")
        self.advance()
        self.add_token("BQNAME")


class _FormulaReader:
    """One formula on its way from text to terms."""

    def __init__(self, formula: str):
        self.formula = formula
        # Placeholder name -> component, for the names formulae's resolver sees.
        self.components: dict[str, Expression] = {}

    def error(self, reason: str) -> ValueError:
        return ValueError(f"formula={self.formula!r} cannot be read: {reason}")

    def read(self) -> ParsedFormula:
        response, tokens = self.split_response(self.scan())
        tree = self.parse([Token("NUMBER", "1", 1), Token("PLUS", "+"), *_join_pipes(tokens), Token("EOF", "")])
        common: list[Any] = []
        pipes: list[Any] = []
        self.split_blocks(tree, common, pipes)
        has_intercept, terms = self.resolve(common)
        blocks = tuple(block for pipe in pipes for block in self.read_blocks(pipe))
        self.check_blocks(blocks)
        if not (has_intercept or terms or blocks):
            raise self.error("it has no terms; write at least `y ~ 1`.")
        text = self.formula.strip()
        parsed = ParsedFormula(text, response or "y", has_intercept, terms, blocks)
        if response is not None and response in (*parsed.feature_names, *parsed.factor_names):
            raise self.error(
                f"{response!r} stands on both sides of `~`. The left-hand side only names y; leave it out if the "
                f"column {response!r} of X really is a feature."
            )
        if response is None:
            parsed = self.name_response(parsed)
        return parsed

    def name_response(self, parsed: ParsedFormula) -> ParsedFormula:
        """Choose a name for y in the text, since the formula has no left-hand side."""
        names, response = {*parsed.feature_names, *parsed.factor_names}, "y"
        while response in names:
            response = f"{response}_" if response.startswith("response") else "response"
        text = parsed.text.removeprefix("~").lstrip()
        return replace(parsed, response=response, text=f"{response} ~ {text}")

    # ------------------------------------------------------------------------------------------- tokens and the tree

    def scan(self) -> list[Token]:
        if not self.formula.strip():
            raise self.error("it is empty.")
        try:
            return _Scanner(self.formula).scan(add_intercept=False)[:-1]
        except Exception as error:  # formulae raises its own classes, int() and others raise theirs
            raise self.error(
                f"{error}. Names with other characters than letters, digits, `.` and `_` stand in backquotes, and a "
                "backquote of the name is written twice."
            ) from None

    def split_response(self, tokens: list[Token]) -> tuple[str | None, list[Token]]:
        kinds = [token.kind for token in tokens]
        if "TILDE" not in kinds:
            return None, tokens
        position = kinds.index("TILDE")
        left, right = tokens[:position], tokens[position + 1 :]
        if not left:
            return None, right
        if len(left) > 1 or left[0].kind not in ("IDENTIFIER", "BQNAME"):
            text = " ".join(token.lexeme for token in left)
            raise ValueError(
                f"formula={self.formula!r} has {text!r} on its left-hand side, which may only be a name for y: fit "
                f"gets y as an argument. {_instead_of_left_side(text)}"
            )
        return _name_of(left[0]), right

    def parse(self, tokens: list[Token]) -> Any:
        if len(tokens) == 3:
            raise self.error("nothing stands right of `~`; write at least `y ~ 1`.")
        parser = Parser(tokens)
        try:
            tree = parser.parse()
        except Exception as error:
            # The message of formulae ends in an empty pair of quotes at the end of the text.
            reason = "it ends too early" if parser.at_end() and "parse" in str(error) else str(error).rstrip(".")
            if "[" in self.formula or "knots" in self.formula:
                reason += ". A formula cannot hold a list (of knots, say): pass df= to bs, or use SplineTransformer"
            raise self.error(f"{reason}.") from None
        if not parser.at_end():
            # formulae itself silently ignores the rest.
            raise self.error(f"it makes no sense from {parser.peek().lexeme!r} on.")
        return tree

    # ------------------------------------------------------------------------------------------------ common and group

    def split_blocks(self, tree: Any, common: list[tuple[str, Any]], pipes: list[syntax.Binary]) -> None:
        """Sort a sum into signed common parts and group terms."""
        for sign, part in _summands(tree):
            inner = _without_parentheses(part)
            if isinstance(part, syntax.Grouping) and _is_binary(inner, "PIPE"):
                if sign == "-":
                    raise self.error("a group term cannot be subtracted; leave it out instead.")
                pipes.append(inner)
            elif isinstance(part, syntax.Grouping) and sign == "+" and _contains_pipe(inner):
                self.split_blocks(inner, common, pipes)
            elif _contains_pipe(part):
                raise self.error("every `|` needs its own parentheses in a sum, such as y ~ x + (x | g).")
            else:
                common.append((sign, part))

    def read_blocks(self, pipe: syntax.Binary) -> list[Block]:
        """Return the blocks of one pair of parentheses: one for every factor right of `|`."""
        if _contains_pipe(pipe.left) or _contains_pipe(pipe.right):
            raise self.error("`|` may stand only once in a pair of parentheses.")
        one = ("+", syntax.Literal(1))
        # formulae adds the implicit intercept itself, but forgets it again in `(1 + x - 1 | g)` and cannot add up
        # `(x + 0 | g)`; resolved as a sum that starts with 1, all spellings work as outside of parentheses.
        has_intercept, terms = self.resolve([one, *_summands(pipe.left)])
        if any(is_offset(term) for term in terms):
            raise self.error("offset() cannot stand in a group term.")
        terms = (INTERCEPT, *terms) if has_intercept else terms
        if not terms:
            raise self.error("nothing is left of `|` in a group term; write (1 | g) for a varying intercept.")
        correlated = pipe.operator.lexeme == "|"
        return [Block(factor, terms, correlated) for factor in self.read_factors(pipe.right)]

    def read_factors(self, tree: Any) -> list[FactorNames]:
        resolved = self.formulae_terms(self.name_calls(tree))
        factors = []
        for term in resolved:
            parts = [self.components[part.name] for part in term.components] if _is_term(term) else [None]
            names = tuple(part.column for part in parts if isinstance(part, Name))
            if len(names) < len(parts):
                raise self.error("right of `|` stand names of columns, such as (1 | g), (1 | g + h) or (1 | g / h).")
            factors.append(names)
        return factors

    def check_blocks(self, blocks: tuple[Block, ...]) -> None:
        seen: dict[tuple[frozenset[str], Term], Block] = {}
        orders: dict[frozenset[str], FactorNames] = {}
        for block in blocks:
            members = frozenset(block.factor)
            if orders.setdefault(members, block.factor) != block.factor:
                raise self.error(f"the factor {':'.join(block.factor)!r} is written in two orders; use one.")
            for term in block.terms:
                if (members, term) in seen:
                    left = ":".join(label(part, show_name) for part in term) or "1"
                    factor = ":".join(map(show_name, block.factor))
                    raise self.error(
                        f"the varying term {left}|{factor} stands in two pairs of parentheses (a term such as x "
                        f"brings an intercept with it). Write (x | {factor}) for correlated effects, "
                        f"(1 | {factor}) + (0 + x | {factor}) for independent ones."
                    )
                seen[members, term] = block

    # ------------------------------------------------------------------------------------------------ resolving terms

    def resolve(self, parts: list[tuple[str, Any]]) -> tuple[bool, tuple[Term, ...]]:
        """Add up signed parts by formulae's rules: intercept or not, and the other terms."""
        total = None
        for sign, part in parts:
            resolved = self.formulae_resolve(self.name_calls(part))
            try:
                total = resolved if total is None else total + resolved if sign == "+" else total - resolved
            except (TypeError, ValueError) as error:
                raise self.error(f"{error}.") from None
        terms = _terms_of(total)
        has_intercept = any(isinstance(term, Intercept) for term in terms)
        return has_intercept, self.own_terms(term for term in terms if _is_term(term))

    def own_terms(self, terms: Any) -> tuple[Term, ...]:
        own: list[Term] = []
        members: dict[Any, Any] = {}
        for term in terms:
            parts = tuple(self.components[part.name] for part in term.components)
            if len(parts) > 1 and any(is_offset((part,)) for part in parts):
                raise self.error("offset() cannot be part of an interaction.")
            twin = members.setdefault(frozenset(parts), parts)
            if twin != parts:
                first, second = (":".join(label(part) for part in each) for each in (twin, parts))
                raise self.error(f"the terms {first!r} and {second!r} are the same interaction; write one of them.")
            own.append(parts)
        return tuple(own)

    def formulae_terms(self, tree: Any) -> list[Any]:
        return _terms_of(self.formulae_resolve(tree))

    def formulae_resolve(self, tree: Any) -> Any:
        try:
            return Resolver(tree).resolve()
        except RecursionError:
            raise self.error("it is nested too deeply.") from None
        except Exception as error:
            raise self.error(f"{error}.") from None

    def name_calls(self, tree: Any) -> Any:
        """Return the tree with every component replaced by a name that formulae's resolver can add and multiply."""
        match tree:
            case syntax.Grouping():
                return syntax.Grouping(self.name_calls(tree.expression))
            case syntax.Binary() if tree.operator.kind in ("PLUS", "MINUS", "STAR", "SLASH", "COLON"):
                return syntax.Binary(self.name_calls(tree.left), tree.operator, self.name_calls(tree.right))
            case syntax.Binary() if tree.operator.kind == "STAR_STAR":
                return syntax.Binary(self.power_base(tree), tree.operator, tree.right)
            case syntax.Binary():
                raise self.error(f"{tree.operator.lexeme!r} has no meaning between terms; use {{...}} for arithmetic.")
            case syntax.Unary():
                return syntax.Unary(tree.operator, self.name_calls(tree.right))
            case syntax.Literal():
                if isinstance(tree.value, int | float) and not isinstance(tree.value, bool) and tree.value in (0, 1):
                    return tree
                raise self.error(f"{tree.value!r} is no term: only 0 and 1 have a meaning there.")
            case syntax.Assign():
                raise self.error("`=` has a meaning only for arguments of functions.")
        component = self.expression(tree, outermost=True)
        key = label(component, show_name, parentheses=True)
        self.components[key] = component
        return syntax.Variable(Token("IDENTIFIER", key))

    def power_base(self, tree: syntax.Binary) -> Any:
        exponent = tree.right
        if not isinstance(exponent, syntax.Literal) or not isinstance(exponent.value, int) or exponent.value < 1:
            raise self.error("the exponent of `**` between terms must be a positive integer.")
        base = self.name_calls(tree.left)
        if len(self.formulae_terms(self.name_calls(tree.left))) < 2:
            text = label(next(iter(self.components.values()))) if len(self.components) == 1 else "x"
            raise self.error(
                f"`**` between terms means interactions, so {text}**{exponent.value} would be {text} itself; write "
                f"{{{text}**{exponent.value}}} for the power."
            )
        return base

    def expression(self, tree: Any, *, outermost: bool = False) -> Expression:
        """Return a component as our own expression."""
        match tree:
            case syntax.Grouping():
                return self.expression(tree.expression)
            case syntax.Variable() if tree.level is not None:
                raise self.error(f"the brackets after {tree.name.lexeme!r} have no meaning for a predictor.")
            case syntax.Variable():
                return Name(tree.name.lexeme)
            case syntax.QuotedName():
                return Name(_name_of(tree.expression))
            case syntax.Literal():
                return Value(tree.value, str(tree.value) if tree.lexeme is None else tree.lexeme)
            case syntax.Unary():
                return Operation(tree.operator.lexeme, (self.expression(tree.right),))
            case syntax.Binary() if tree.operator.kind in _OPERATORS:
                operands = (self.expression(tree.left), self.expression(tree.right))
                return Operation(_OPERATORS[tree.operator.kind], operands)
            case syntax.Call():
                return self.call(tree, outermost)
        raise self.error("an argument of a function is neither a name, a number nor arithmetic.")

    def call(self, tree: syntax.Call, outermost: bool) -> Call:
        if not isinstance(tree.callee, syntax.Variable) or tree.callee.level is not None:
            raise self.error("only a named function can be called.")
        name, positional, keywords = tree.callee.name.lexeme, [], []
        for argument in tree.args:
            if isinstance(argument, syntax.Assign):
                keywords.append((argument.name.name.lexeme, self.argument(name, argument.value)))
            else:
                positional.append(self.argument(name, argument))
        if len({key for key, _ in keywords}) < len(keywords):
            raise self.error(f"an argument of {name}() is given twice.")
        call = Call(name, tuple(positional), tuple(keywords))
        check_call(call, self.formula, outermost=outermost)
        return call

    def argument(self, function: str, tree: Any) -> Expression:
        """Return an argument; a contrast such as Treatment("b") looks like a call and is checked by `check_call`."""
        is_call = isinstance(tree, syntax.Call) and isinstance(tree.callee, syntax.Variable)
        if is_call and function == "C" and tree.callee.name.lexeme in CONTRASTS:
            return Call(tree.callee.name.lexeme, tuple(self.expression(part) for part in tree.args))
        return self.expression(tree)


# --------------------------------------------------------------------------------------------------------------------
# Helpers on tokens and trees


def _name_of(token: Token) -> str:
    return token.lexeme[1:-1].replace("``", "`") if token.kind == "BQNAME" else token.lexeme


def _join_pipes(tokens: list[Token]) -> list[Token]:
    """Two `|` in a row as one PIPE token that remembers them."""
    joined: list[Token] = []
    for token in tokens:
        if token.kind == "PIPE" and joined and joined[-1].kind == "PIPE" and joined[-1].lexeme == "|":
            joined[-1] = Token("PIPE", "||")
        else:
            joined.append(token)
    return joined


def _is_binary(tree: Any, *kinds: str) -> bool:
    return isinstance(tree, syntax.Binary) and tree.operator.kind in kinds


def _without_parentheses(tree: Any) -> Any:
    while isinstance(tree, syntax.Grouping):
        tree = tree.expression
    return tree


def _summands(tree: Any) -> list[tuple[str, Any]]:
    """Return the parts of a sum with their signs; a loop, because a sum of a thousand terms is a tree as deep."""
    parts = []
    while _is_binary(tree, "PLUS", "MINUS"):
        parts.append((tree.operator.lexeme, tree.right))
        tree = tree.left
    return [("+", tree), *reversed(parts)]


def _contains_pipe(tree: Any) -> bool:
    stack = [tree]
    while stack:
        tree = stack.pop()
        if _is_binary(tree, "PIPE"):
            return True
        match tree:
            case syntax.Binary():
                stack += [tree.left, tree.right]
            case syntax.Unary():
                stack.append(tree.right)
            case syntax.Grouping():
                stack.append(tree.expression)
    return False


def _is_term(term: Any) -> bool:
    return isinstance(term, FormulaeTerm)


def _terms_of(resolved: Any) -> list[Any]:
    terms = resolved.common_terms if isinstance(resolved, Model) else [resolved]
    return [term for term in terms if not isinstance(term, NegatedIntercept)]


def _instead_of_left_side(text: str) -> str:
    """Return what to do instead of what Bambi, brms and R write left of `~`."""
    first, *_ = text.split()
    if first in ("p", "prop", "proportion", "cbind") or "trials" in text.split():
        return (
            "Successes out of trials are PartialPoolingCountRegressor(family='binomial') and "
            "fit(X, successes, trials=trials)."
        )
    if first == "weighted":
        return "Pass the weights as sample_weight= of fit."
    if "[" in text:
        return (
            "Of two classes the second in sorting order, classes_[1], is the one that probabilities in tables are of."
        )
    return (
        "To transform y, transform it before fit, or wrap a regressor in sklearn.compose.TransformedTargetRegressor, "
        "which transforms predictions back; counts and classes need none."
    )
