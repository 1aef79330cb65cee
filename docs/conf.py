"""Settings of the site: ``sphinx-build -W -n docs docs/_build/html``."""

import os
import re
import shutil
import sys
import warnings
from importlib.metadata import files
from pathlib import Path

HERE = Path(__file__).parent
# The checkout that the pages belong to, also if another version is installed.
sys.path[:0] = [str(HERE.parent), str(HERE)]
os.environ.setdefault("MPLBACKEND", "agg")

import figures  # noqa: E402
import interface_tables  # noqa: E402
import pictures  # noqa: E402

import skvq  # noqa: E402

project = "skvq"
author = "the developers of skvq"
copyright = f"{author}, BSD-3-Clause"
version = release = skvq.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "myst_parser",
    "name_links",
    "numpydoc",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
nitpicky = True
# Names of parameters and the like stand in single backticks.
default_role = "literal"

# -- API reference: a page for each name in __all__ ----------------------------------

autosummary_ignore_module_all = False
autosummary_imported_members = True
toc_object_entries_show_parents = "hide"
autodoc_typehints = "none"  # the docstrings have them
numpydoc_show_class_members = False
# The build fails on public docstrings that are not complete.
numpydoc_validation_checks = {
    "all",
    "ES01",  # not everything needs more than its summary
    "EX01",  # tests/test_docs.py asks for examples where they belong
    "GL01",  # the summary stands on the first line
    "PR08",  # descriptions that begin with a formula or a name
    "PR10",
    "RT02",  # what is returned has a name, as in scikit-learn
    "RT04",
    "SA01",  # nor does everything have relatives
    "SA04",
    "SS05",  # takes "Bits per sample" for a verb
    "YD01",
}
# Inherited from scikit-learn, and documented there.
numpydoc_validation_exclude = {
    r"\.set_(fit|partial_fit|score|transform)_request$",
    r"\.(fit_transform|get_feature_names_out|get_metadata_routing|get_params)$",
    r"\.(set_callbacks|set_output|set_params)$",
}

# -- names of other projects ---------------------------------------------------------

# Stored, so that no build needs the network: `inventories/make.py` writes them.
intersphinx_mapping = {
    library: (address, f"inventories/{library}.inv")
    for library, address in {
        "sklearn": "https://scikit-learn.org/stable/",
        "numpy": "https://numpy.org/doc/stable/",
        "scipy": "https://docs.scipy.org/doc/scipy/",
        "dask": "https://docs.dask.org/en/stable/",
    }.items()
}

# -- formulas ------------------------------------------------------------------------

# One file, which needs neither fonts nor the network; `_copy_mathjax` puts it there.
mathjax_path = "mathjax/tex-svg.js"
mathjax3_config = {"options": {"enableMenu": False}, "svg": {"scale": 0.95}}


def _copy_mathjax(app):
    """Copy the script and its licence from the package that carries them."""
    folder = Path(app.outdir, "_static", "mathjax")
    folder.mkdir(parents=True, exist_ok=True)
    for file in files("django-static-mathjax"):
        if file.match("mathjax/es5/tex-svg.js") or file.match("mathjax/LICENSE"):
            shutil.copy(file.locate(), folder / file.name)


# -- pages in Markdown ---------------------------------------------------------------

myst_enable_extensions = ["attrs_block", "colon_fence", "dollarmath"]
myst_heading_anchors = 3
# Files of the repository that the pages link to, and the pages that include them.
_INCLUDED = {
    "CONTRIBUTING.md": "/contributing.md",
    "CHANGELOG.md": "/changes.md",
    "SECURITY.md": "/security.md",
    "THIRD_PARTY.md": "/third_party.md",
    "benchmarks/README.md": "/benchmarks.md",
}


def _stay_within_the_site(app, docname, source):
    for path, page in _INCLUDED.items():
        source[0] = re.sub(rf"\]\((\.\./)+{re.escape(path)}", f"]({page}", source[0])


def _join_continued_lines(app, what, name, obj, options, lines):
    # In raw docstrings, a backslash at the end of a line does not join it to the next.
    lines[:] = re.sub(r"(?<!\\)\\\n\s+", "", "\n".join(lines)).split("\n")


def _draw(app):
    """Draw what pages show and the repository does not hold."""
    pictures.draw(HERE / "generated" / "pictures")
    figures.draw(HERE / "generated" / "figures")
    interface_tables.write(HERE / "generated" / "interface.txt")


def setup(app):
    """Mend what is written for other readers than Sphinx, and draw what it shows."""
    app.connect("builder-inited", _copy_mathjax)
    app.connect("builder-inited", _draw)
    app.connect("source-read", _stay_within_the_site)
    app.connect("autodoc-process-docstring", _join_continued_lines, priority=100)


# -- gallery -------------------------------------------------------------------------

# Warnings of an example are faults of the page.
warnings.filterwarnings("error", category=FutureWarning)
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "within_subsection_order": "gallery_order.ByPurpose",
    # Every example runs: this is where they are tested.
    "filename_pattern": r"\.py$",
    "backreferences_dir": "generated/backreferences",
    # Figures with a sentence each as their alternative text.
    "image_scrapers": ("gallery_pictures",),
    "doc_module": ("skvq",),
    "download_all_examples": False,
    "show_memory": False,
    "min_reported_time": 3600,
    "remove_config_comments": True,
    "write_computation_times": False,
    "show_signature": False,
}

# -- HTML ----------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system is
html_title = "skvq"
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["skvq.css"]
# Pages without others beneath them have nothing to navigate to.
html_sidebars = {
    page: [] for page in ("index", "getting_started", "theory", "benchmarks")
}
html_theme_options = {
    "header_links_before_dropdown": 8,
    "show_prev_next": False,
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
