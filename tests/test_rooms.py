"""The rooms of the house: what may import what, and nobody reaches into another room's private parts."""

import ast
from pathlib import Path

import pytest

import hbsk

ROOT = Path(hbsk.__file__).parent
# Each room, and the rooms it may import from; arrows go one way.
FOUNDATIONS = {"_messages", "exceptions", "__version__"}
ENGINE, DATA, SHRINKAGE = {"_engine"}, {"_data"}, {"_shrinkage"}
MODEL = ENGINE | DATA
BAMBI = MODEL | {"_model"}
SUMS = MODEL | {"_model", "_documents"}
POSTERIOR = BAMBI | {"_bambi", "_shrinkage"}
FIT = POSTERIOR | {"_posterior", "sufficient_statistics"}
ESTIMATORS = FIT | {"_fit", "_base", "_estimators"}
ABOVE = ESTIMATORS | {
    "_documents",
    "partial_pooling",
    "classification",
    "counts",
    "james_stein",
    "encoder",
    "diagnostics",
}
MAY_IMPORT = {
    "_messages": {"exceptions"},
    "exceptions": set(),
    "_engine": set(),
    "_data": set(),
    "_shrinkage": set(),
    "_documents": {"_engine"},
    "_model": MODEL,
    "_bambi": BAMBI,
    "_posterior": POSTERIOR,
    "sufficient_statistics": SUMS,
    "_fit": FIT,
    "diagnostics": FIT,
    "meta_analysis": SHRINKAGE,
    "_base": FIT | {"_fit"},
    "_estimators": FIT | {"_fit", "_base"},
    "partial_pooling": ESTIMATORS | {"diagnostics"},
    "classification": ESTIMATORS,
    "counts": ESTIMATORS,
    "james_stein": ESTIMATORS,
    "encoder": ESTIMATORS,
    "datasets": set(),
    "model_selection": ABOVE,
    "predictive_checks": ABOVE | {"model_selection"},
    "serialization": ABOVE,
    "plotting": ABOVE | {"meta_analysis", "model_selection", "predictive_checks"},
    "__init__": ABOVE | {"serialization"},
}
LONGEST_FILE = 500


def modules():
    """Yield (room, path, syntax tree) of every module."""
    for path in sorted(ROOT.rglob("*.py")):
        inside = path.relative_to(ROOT)
        yield inside.parts[0].removesuffix(".py"), inside, ast.parse(path.read_text(encoding="utf-8"))


def imported(tree):
    """Yield (line, module) of every import of hbsk's own, at whatever depth it stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names if alias.name.split(".")[0] == "hbsk")
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "hbsk":
            if node.module == "hbsk":
                yield from ((node.lineno, f"hbsk.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module


def forbidden_arrows(room, path, tree):
    for line, module in imported(tree):
        to = module.split(".")[1] if "." in module else "__init__"
        if to != room and to not in MAY_IMPORT[room] | FOUNDATIONS:
            yield f"{path}:{line}: {room} must not import {module}"


def test_rooms_are_those_of_the_plan():
    rooms = {room for room, _, _ in modules()}
    assert rooms == set(MAY_IMPORT)


def test_only_public_modules_and_rooms_lie_at_the_top():
    private = {path.name for path in ROOT.glob("_*.py")} - {"__init__.py"}
    assert private == {"_base.py", "_messages.py"}


def test_imports_go_one_way():
    wrong = [arrow for module in modules() for arrow in forbidden_arrows(*module)]
    assert not wrong, "\n".join(wrong)


def test_an_arrow_against_the_rule_is_named():
    tree = ast.parse("def late():\n    from hbsk._posterior.nodes import MarginalPosterior\n")
    (arrow,) = forbidden_arrows("_engine", "_engine/fit.py", tree)
    assert arrow == "_engine/fit.py:2: _engine must not import hbsk._posterior.nodes"


@pytest.mark.parametrize("folder", [ROOT, Path(__file__).parent], ids=["hbsk", "tests"])
def test_no_file_tells_two_stories(folder):
    long = {
        str(path.relative_to(folder)): n
        for path in folder.rglob("*.py")
        if (n := len(path.read_text(encoding="utf-8").splitlines())) > LONGEST_FILE
    }
    assert not long


def private_names(tree):
    """Names with one underscore that classes and modules of this tree define."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.attr
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


def reached_into(tree, own, others):
    """Yield (line, expression) of every access to a private attribute of another room."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not node.attr.startswith("_") or node.attr.startswith("__"):
            continue
        if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
            continue
        if isinstance(node.value, ast.Call) and getattr(node.value.func, "id", "") == "super":
            continue
        if node.attr in others - own:
            yield node.lineno, ast.unparse(node)


def test_no_room_reaches_into_another():
    own = {}
    for room, _, tree in modules():
        own.setdefault(room, set()).update(private_names(tree))
    every = set().union(*own.values())
    wrong = [
        f"{path}:{line}: {text}"
        for room, path, tree in modules()
        for line, text in reached_into(tree, own[room], every)
    ]
    assert not wrong, "\n".join(wrong)


def test_a_private_attribute_of_another_room_is_named():
    tree = ast.parse("def f(estimator):\n    return estimator._frame\n")
    assert list(reached_into(tree, set(), {"_frame"})) == [(2, "estimator._frame")]
    assert not list(reached_into(tree, {"_frame"}, {"_frame"}))


def test_kinds_of_posteriors_are_told_apart_in_their_room_only():
    kinds = {"MarginalPosterior", "CrossedPosterior", "DrawsPosterior", "NoPoolingPosterior", "Posterior"}
    wrong = []
    for room, path, tree in modules():
        for node in ast.walk(tree):
            is_test = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance"
            if (
                room != "_posterior"
                and is_test
                and kinds & {n.id for n in ast.walk(node.args[1]) if isinstance(n, ast.Name)}
            ):
                wrong.append(f"{path}:{node.lineno}")
    assert not wrong
