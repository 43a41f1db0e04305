"""The documentation site: `./scripts/docs` builds it, and a warning is an error.

The pages are the Markdown files of this folder, readable on their own; index.md is the map.
The API pages in reference/ are made from the docstrings, and the page of commands from `--help`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path
from typing import Any

os.environ["COLUMNS"] = "100"  # width of --help
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.python import PyObject
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
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"ArrayLike": "ArrayLike"}
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_display_short_literal_types = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_use_rtype = False

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "jaxsched"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"top_of_page_buttons": [], "navigation_with_keys": True}

FOLDER = Path(__file__).parent
BORROWED = {"contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}
"""Pages that stand at the root of the repository; here each is a stub."""

LINK = re.compile(r"\[([^\]]+)\]\((?!http|#)([^)#]+)(#[^)]*)?\)")


LONG = re.compile(
    r"TypeAliasForwardRef\('(\w+)'\)"
    r"|~?numpy\.ndarray\[tuple\[[^]]*\], ~?numpy\.dtype\[~?(?:numpy\.)?(\w+)\]\]"
)


def read_page(app: Sphinx, page: str, source: list[str]) -> None:
    """Borrows pages from the root, and names the files that a link cannot reach from the site."""
    folder = (FOLDER / page).parent
    if page in BORROWED:
        folder = FOLDER.parent
        source[0] = (folder / BORROWED[page]).read_text()

    def followed(link: re.Match[str]) -> str:
        text, path, anchor = link.groups("")
        target = Path(os.path.normpath(folder / path))
        if target.is_relative_to(FOLDER):
            return f"[{text}](/{target.relative_to(FOLDER)}{anchor})"
        name = target.relative_to(FOLDER.parent).as_posix()
        return f"`{name}`" if text.strip("`") in name else f"{text} (`{name}`)"

    source[0] = LINK.sub(followed, source[0])


def plain_signature(app: Sphinx, what: str, name: str, thing: Any, *given: Any) -> Any:
    """A record's arguments are its attributes, which stand below; types go by their short names."""
    if what == "class" and hasattr(thing, "__dataclass_fields__"):
        return "", ""

    def short(found: re.Match[str]) -> str:
        return found[1] or f"NDArray[{found[2]}]"

    return tuple(text and LONG.sub(short, text) for text in given[1:])


def set_formulas(*given: Any) -> None:
    """Indented lines of a docstring are formulas; they and lists of files stay as they are."""
    text, shown, last = given[-1], [], " "
    for line in text:
        line = f"    {line}" if re.match(r"\w+\.py\b", line) else line
        if line.startswith("    ") and not shown[-1] and not last.startswith((" ", "-")):
            shown += [".. code-block:: text", ""]
        shown.append(line)
        last = line or last
    text[:] = shown


def link_pages(*given: Any) -> None:
    """Docstrings name pages by their file."""
    text = given[-1]
    text[:] = [re.sub(r"\bdocs/(\w+)\.md", r":doc:`/\1`", line) for line in text]


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
    app.connect("source-read", read_page)
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("autodoc-process-docstring", set_formulas, priority=400)  # before napoleon
    app.connect("autodoc-process-docstring", link_pages)
    app.add_directive("program-help", ProgramHelp)
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
