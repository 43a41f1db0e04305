"""The documentation site: `./scripts/docs` builds it, and a warning is an error.

The pages are the Markdown files of this folder, readable on their own; index.md is the map.
The API pages in reference/ are made from the docstrings, and the page of commands from `--help`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re

os.environ["COLUMNS"] = "100"  # width of --help
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from jaxsched import __version__, cli

project = "jaxsched"
author = "The jaxsched authors"
project_copyright = "The jaxsched authors, Apache-2.0"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
exclude_patterns = ["_static"]

# Single backticks in docstrings: a link if they name something documented, code if not.
default_role = "py:obj"
add_module_names = False
autodoc_class_signature = "separated"
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "jaxsched"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": [], "navigation_with_keys": True}

OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./([^)]+)\)")
"""A link to a file of the repository that is not part of the site."""


def name_files_outside(app: Sphinx, page: str, source: list[str]) -> None:
    """Such a link leads somewhere in the repository only: the site names the file instead."""

    def named(link: re.Match[str]) -> str:
        text, path = link.groups()
        return f"`{path}`" if text.strip("`") in path else f"{text} (`{path}`)"

    source[0] = OUTSIDE.sub(named, source[0])


class ProgramHelp(SphinxDirective):
    """`{program-help} run`: what `jaxsched run --help` prints."""

    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
            cli.main([*" ".join(self.arguments).split(), "--help"])
        return [nodes.literal_block(text.getvalue(), text.getvalue(), language="text")]


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", name_files_outside)
    app.add_directive("program-help", ProgramHelp)
