"""What the documentation shows is what happens: its code runs, its output is right, its API page is complete."""

import doctest
import importlib
import re
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
GENERATED = ("_build", "auto_examples", "generated")
PAGES = sorted(path for path in DOCS.rglob("*.md") if not set(GENERATED) & set(path.relative_to(DOCS).parts))

PYTHON = {"python", "pycon", "{plot}", "{code-block} python"}
# Fences that hold no Python: other languages, tables, boxes. A language that is not listed here would not be tested.
OTHER = {
    *("bash", "r", "text", "toml"),
    *("{admonition}", "{code-block} text", "{eval-rst}", "{figure}", "{image}", "{include}", "{list-table}", "{math}"),
    *("{note}", "{seealso}", "{tip}", "{toctree}", "{warning}"),
}
SLOW = "% slow"
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

PUBLIC_MODULES = (
    "hbsk",
    "hbsk.datasets",
    "hbsk.diagnostics",
    "hbsk.exceptions",
    "hbsk.meta_analysis",
    "hbsk.model_selection",
    "hbsk.plotting",
    "hbsk.predictive_checks",
)


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int  # of its first line of code, from 0
    slow: bool


def fenced_blocks(text):
    """Return the fenced blocks of a Markdown page; options of directives are left out of their text."""
    lines = text.splitlines()
    blocks, i, before = [], 0, ""
    while i < len(lines):
        fence = re.fullmatch(r"(`{3,}|:{3,}) *(\S.*)?", lines[i])
        # A box is closed where its contents have been read: what is left to see of it is its last line.
        if fence is None or (fence[1].startswith(":") and fence[2] is None):
            before = lines[i].strip() or before
            i += 1
            continue
        words = (fence[2] or "").split()
        language = " ".join(words[:2] if words[:1] == ["{code-block}"] else words[:1])
        end = next(k for k in range(i + 1, len(lines)) if lines[k].strip() == fence[1])
        first = i + 1
        while language.startswith("{") and first < end and (not lines[first].strip() or lines[first].startswith(":")):
            first += 1
        blocks.append(Block(language, "\n".join(lines[first:end]) + "\n", first, before == SLOW))
        before = ""
        # Boxes of colons may hold fenced blocks of their own.
        i = first if fence[1].startswith(":") and language not in PYTHON else end + 1
    return blocks


class LastDigitChecker(doctest.OutputChecker):
    """A decimal number may differ by one in the last digit shown: the Monte Carlo error of the engine does that."""

    NUMBER = re.compile(r"(?<![\w.])-?\d+\.(\d*)(?![\w.])")

    def check_output(self, want, got, optionflags):
        numbers = list(self.NUMBER.finditer(want))
        found = list(self.NUMBER.finditer(got))
        if len(numbers) == len(found):
            for wanted, shown in zip(reversed(numbers), reversed(found), strict=True):
                if abs(float(wanted[0]) - float(shown[0])) <= 1.001 * 10.0 ** -len(wanted[1]):
                    got = got[: shown.start()] + wanted[0] + got[shown.end() :]
        return super().check_output(want, got, optionflags)


def run_page(path, *, slow):
    """Run the Python of a page from top to bottom in one namespace; failures name the page and the line."""
    namespace = {"__name__": "__main__"}
    np.random.seed(0)  # noqa: NPY002 - pages may draw without a generator of their own
    name = path.relative_to(ROOT).as_posix()
    for block in fenced_blocks(path.read_text(encoding="utf-8")):
        if block.language not in PYTHON or (block.slow and not slow):
            continue
        if ">>>" in block.text:
            test = doctest.DocTestParser().get_doctest(block.text, namespace, name, name, block.line)
            runner = doctest.DocTestRunner(checker=LastDigitChecker(), optionflags=FLAGS)
            report = []
            failed = runner.run(test, out=report.append, clear_globs=False).failed
            assert not failed, "".join(report)
            namespace.update(test.globs)
        else:
            exec(compile("\n" * block.line + block.text, name, "exec"), namespace)


@pytest.fixture(autouse=True)
def figures_off_screen():
    matplotlib.use("agg")
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_code_of_the_page_runs(path):
    run_page(path, slow=False)


SLOW_PAGES = [path for path in PAGES if any(b.slow for b in fenced_blocks(path.read_text(encoding="utf-8")))]


@pytest.mark.slow
@pytest.mark.parametrize("path", SLOW_PAGES, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_slow_code_of_the_page_runs(path):
    run_page(path, slow=True)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(DOCS).as_posix())
def test_no_code_is_left_out_of_the_tests(path):
    languages = {block.language for block in fenced_blocks(path.read_text(encoding="utf-8"))}
    assert languages <= PYTHON | OTHER


def test_blocks_are_found():
    page = "# A\n```python\nx = 1\n```\n% slow\n\n```{plot}\n:context:\n\ny = x\n```\n"
    page += ":::{note}\n```python\nz\n```\n:::\n"
    found = [(block.language, block.text, block.line, block.slow) for block in fenced_blocks(page)]
    assert found == [
        ("python", "x = 1\n", 2, False),
        ("{plot}", "y = x\n", 9, True),
        ("{note}", "```python\nz\n```\n", 12, False),
        ("python", "z\n", 13, False),
    ]


@pytest.mark.parametrize(
    ("want", "got", "same"),
    [
        ("0.34", "0.33", True),
        ("0.34", "0.32", False),
        ("array([1.46, 12.])", "array([1.47, 12.])", True),
        ("mean  0.5\nsd  27", "mean   0.4\nsd 28", False),
        ("0.34", "0.34 0.34", False),
        ("v1.20", "v1.21", False),
        ("-0.1...", "-0.19", True),
    ],
)
def test_only_the_last_digit_may_differ(want, got, same):
    assert LastDigitChecker().check_output(want + "\n", got + "\n", FLAGS) == same


def names_on_the_api_page():
    """Return the names that the API page lists, by module."""
    listed = {}
    module = None
    for line in (DOCS / "api" / "index.rst").read_text(encoding="utf-8").splitlines():
        if current := re.fullmatch(r"\.\. (?:currentmodule|py:currentmodule|module|automodule):: (\S+)", line):
            module = listed.setdefault(current[1], set())
        elif data := re.fullmatch(r"\.\. (?:py:data|autodata):: (\w+)", line):
            module.add(data[1])
        elif entry := re.fullmatch(r"   (\w+)", line):
            module.add(entry[1])
    return listed


@pytest.mark.parametrize("module", PUBLIC_MODULES)
def test_api_page_lists_what_is_exported(module):
    exported = set(importlib.import_module(module).__all__)
    exported -= {"__version__", *(name.rpartition(".")[2] for name in PUBLIC_MODULES)}
    assert names_on_the_api_page()[module] == exported


def test_api_page_knows_all_public_modules():
    public = {"hbsk"} | {
        "hbsk." + path.stem if path.suffix else "hbsk." + path.name
        for path in (ROOT / "hbsk").iterdir()
        if not path.name.startswith("_") and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    # The estimators' own files, and what writes them down, are shown under hbsk.
    assert public - {
        "hbsk.partial_pooling",
        "hbsk.sufficient_statistics",
        "hbsk.classification",
        "hbsk.counts",
        "hbsk.james_stein",
        "hbsk.encoder",
        "hbsk.serialization",
    } == set(PUBLIC_MODULES)
    assert set(names_on_the_api_page()) == set(PUBLIC_MODULES)


def test_names_of_other_projects_are_known_where_docstrings_link_to_them():
    """scikit-learn's are found by their pattern (docs/conf.py), the others in inventories that lie there."""
    known = {
        line.split()[0]
        for path in (DOCS / "inventories").glob("*.txt")
        for line in path.read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    }
    projects = "|".join(path.stem for path in (DOCS / "inventories").glob("*.txt"))
    link = re.compile(rf"(?<!`)`((?:{projects}|arviz_stats|scipy|matplotlib|narwhals|polars|formulae)\.[\w.]+)`(?!`)")
    linked = {name for path in (ROOT / "hbsk").rglob("*.py") for name in link.findall(path.read_text(encoding="utf-8"))}
    assert {"bambi.Prior", "arviz.loo", "numpy.exp"} <= linked
    assert linked - known <= {"arviz_stats.psislw", "bambi.priors.scaler.PriorScaler"}  # of private modules' docstrings
