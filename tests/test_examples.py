"""Every example runs as it is, without a warning, in a folder of its own."""

import ast
import runpy
import sys
from pathlib import Path

import matplotlib
import pytest
from sklearn.model_selection import KFold

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples").rglob("*.py"))
# NUTS, up to a minute; simulations and comparisons of many fits, whose like of fewer fits stay.
SLOW = {"plot_eight_schools", "plot_lesson_simulation", "plot_james_stein_risk", "plot_compare_baselines"}

# The questions that the gallery answers: a script that is renamed or lost is noticed.
QUESTIONS = {
    "plot_baseball_ranks",
    "plot_batting_binomial",
    "plot_bcg_meta_analysis",
    "plot_bcg_tables",
    "plot_classify_with_groups",
    "plot_eight_schools",
    "plot_encode_before_boosting",
    "plot_intercepts_first",
    "plot_james_stein_risk",
    "plot_larger_than_memory",
    "plot_lesson_simulation",
    "plot_predictive_check",
    "plot_schools_in_districts",
    "plot_shrinkage_radon",
    "plot_sleepstudy_correlated_slopes",
    "plot_store_sales",
    "plot_students_and_lecturers",
    "plot_where_encoding_loses",
}

# What people come for, each in so many lines: all but the blocks of text of the gallery, blank lines and imports too.
JOBS = {
    "plot_store_sales",
    "plot_bcg_meta_analysis",
    "plot_batting_binomial",
    "plot_schools_in_districts",
    "plot_encode_before_boosting",
}
MOST_LINES = 40


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Figures stay off screen, and what a script writes stays in a temporary folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)  # with a screen Matplotlib warns that agg cannot show figures
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    matplotlib.use("agg")
    yield
    import matplotlib.pyplot as plt

    plt.close("all")


def once(n_splits, n_repeats, random_state):
    return KFold(n_splits, shuffle=True, random_state=random_state)


def figures():
    import matplotlib.pyplot as plt

    return len(plt.get_fignums()) + len(list(Path().rglob("*.png")))


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in SLOW)) for path in EXAMPLES],
)
def test_example_runs_and_draws(path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [str(path)])
    # What the folds are repeated for are the digits; `run.py example` shows those.
    monkeypatch.setattr("sklearn.model_selection.RepeatedKFold", once)
    runpy.run_path(str(path), run_name="__main__")
    assert figures() > 0


def lines_of_code(text, *, with_tags=False):
    """Return the lines of a script of the gallery that are no block of text; those begin with ``# %%``."""
    docstring = ast.parse(text).body[0]
    lines, in_text = [], False
    for line in text.splitlines()[docstring.end_lineno :]:
        in_text = line.startswith("# %%") or (in_text and line.startswith("#"))
        if not in_text and (with_tags or not line.startswith("# sphinx_gallery")):
            lines.append(line)
    return lines


@pytest.mark.parametrize("name", sorted(JOBS))
def test_a_job_is_a_short_script(name):
    (path,) = [path for path in EXAMPLES if path.stem == name]
    assert 10 < len(lines_of_code(path.read_text(encoding="utf-8"))) <= MOST_LINES


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_tags_are_told_in_code_not_in_text(path):
    """The gallery takes them out of code; in a block of text, or in the docstring, readers would see them."""
    text = path.read_text(encoding="utf-8")
    tags = text.count("sphinx_gallery")
    code = "\n".join(lines_of_code(text, with_tags=True))
    assert code.count("# sphinx_gallery") == tags


def test_lines_are_counted_outside_of_text():
    text = '"""A\n\nb\n"""\n\n# %%\n# text\nimport ast\n# why\n\nx = 1\n# %%\n# sphinx_gallery_tags = []\ny = 1\n'
    assert lines_of_code(text) == ["", "import ast", "# why", "", "x = 1", "y = 1"]


def test_gallery_answers_the_questions_it_promises():
    assert {path.stem for path in EXAMPLES} >= QUESTIONS


@pytest.mark.filterwarnings("ignore::hbsk.exceptions.ConvergenceWarning")  # chains this short
def test_eight_schools_are_sampled_in_four_chains(monkeypatch):
    """The script with few draws; as it is, it runs among the slow tests."""
    (path,) = [path for path in EXAMPLES if path.stem == "plot_eight_schools"]
    from hbsk import PartialPoolingRegressor

    fitted, fit = [], PartialPoolingRegressor.fit

    def short_fit(self, *args, **options):
        fitted.append(self.set_params(draws=60, tune=100))
        return fit(self, *args, **options)

    monkeypatch.setattr(PartialPoolingRegressor, "fit", short_fit)
    runpy.run_path(str(path), run_name="__main__")
    assert [(model.inference, model.chains) for model in fitted[:2]] == [("nuts", 4), ("auto", 4)]
    assert figures() > 0
