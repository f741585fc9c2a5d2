"""Configuration of the documentation: `tox -e docs`, or `sphinx-build -W docs docs/_build/html`.

Nothing is fetched: names of other projects from `inventories`, no remote fonts, MathJax from a Python package.
"""

import importlib.util
from pathlib import Path

import matplotlib
from docutils import nodes
from docutils.statemachine import StringList
from matplotlib.sphinxext.plot_directive import PlotDirective
from numpydoc.xref import DEFAULT_LINKS
from sphinx.util.fileutil import copy_asset

import hbsk

matplotlib.use("agg")

project = "hbsk"
author = "hbsk developers"
copyright = "2026, hbsk developers"
version = release = hbsk.__version__

extensions = [
    "matplotlib.sphinxext.plot_directive",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
# sphinx-gallery's table of run times loads scripts from elsewhere.
exclude_patterns = ["_build", "_templates", "**/sg_execution_times.rst", "sg_execution_times.rst"]
templates_path = ["_templates"]
default_role = "py:obj"
# What the pages say of the code is tested (tests/test_docs.py); what they link to is checked here.
suppress_warnings = ["config.cache"]  # sphinx-gallery's configuration holds a class

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False  # the template of classes lists them

# Where names of other projects are told, as far as docstrings use them; `link_to_scikit_learn` has the rest.
SITES = {
    "arviz": "https://python.arviz.org/",
    "bambi": "https://bambinos.github.io/bambi/",
    "joblib": "https://joblib.readthedocs.io/en/stable/",
    "numpy": "https://numpy.org/doc/stable/",
    "pandas": "https://pandas.pydata.org/docs/",
    "pymc": "https://www.pymc.io/projects/docs/en/stable/",
    "xarray": "https://docs.xarray.dev/en/stable/",
}
intersphinx_mapping = {name: (site, f"inventories/{name}.txt") for name, site in SITES.items()}
# Types of parameters are linked where they are tables and arrays, not at every int.
numpydoc_xref_param_type = True
numpydoc_xref_ignore = "all"
numpydoc_xref_aliases = {
    **{word: word for word in DEFAULT_LINKS},
    "DataFrame": "pandas.DataFrame",
    "Series": "pandas.Series",
    "ndarray": "numpy.ndarray",
    "bambi.Model": ":class:`bambi.Model`",
    "xarray.DataTree": ":class:`xarray.DataTree`",
}

# Pictures in the pages: the code that made them stands above them.
plot_formats = [("png", 140)]
plot_html_show_formats = False
plot_html_show_source_link = False
plot_include_source = True
plot_pre_code = ""
plot_rcparams = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "nested_sections": False,  # one page, whose tags filter all sections
    "subsection_order": [
        "../examples/pooling",
        "../examples/in_scikit_learn",
        "../examples/classes_and_counts",
        "../examples/group_means",
        "../examples/many_groups",
        "../examples/checking",
    ],
    "filename_pattern": r"/plot_",
    "ignore_repr_types": r"matplotlib\.|hbsk\.plotting",  # what set_xlabel, legend and displays return is no output
    "ignore_pattern": r"(^|/)(?!plot_)\w+\.py$",
    "backreferences_dir": "api/generated/backreferences",
    "doc_module": ("hbsk",),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "matplotlib_animations": False,
    "min_reported_time": 1,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "hbsk"
html_static_path = ["_static"]
html_css_files = ["hbsk.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navbar_persistent": ["search-button"],
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": [], "installing": [], "getting_started": [], "maths": []}

copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True
copybutton_only_copy_prompt_lines = True

MATHJAX = Path(importlib.util.find_spec("sphinx-mathjax-offline").origin).parent / "static" / "mathjax"
mathjax_path = "mathjax/tex-chtml.js"


def copy_mathjax(app, error):
    """Copy the few files of MathJax that the pages load."""
    if error is None and app.builder.format == "html":
        target = Path(app.outdir) / "_static" / "mathjax"
        for part in ("tex-chtml.js", "output/chtml/fonts/woff-v2"):
            copy_asset(MATHJAX / part, (target / part).parent if part.endswith(".js") else target / part)


class PlotInMarkdown(PlotDirective):
    """Matplotlib's directive for Markdown: what it writes in reStructuredText goes through MyST's eval-rst."""

    def run(self):
        written = []
        self.state_machine.insert_input = lambda lines, **_: written.extend(lines)
        messages = super().run()
        box = nodes.Element()
        fenced = StringList(["````{eval-rst}", *written, "````"], source=self.state.document["source"])
        self.state.nested_parse(fenced, self.content_offset, box)
        return [*box.children, *messages]


def link_to_scikit_learn(_app, _environment, node, content):
    """Link a public name of scikit-learn to its page: every one has a page under its full name."""
    target = node.get("reftarget", "")
    if not target.startswith("sklearn.") or "._" in target:
        return None
    address = f"https://scikit-learn.org/stable/modules/generated/{target}.html"
    return nodes.reference("", "", content, internal=False, refuri=address)


def setup(app):
    app.connect("missing-reference", link_to_scikit_learn)
    app.add_directive("plot", PlotInMarkdown, override=True)
    app.connect("build-finished", copy_mathjax)
