"""How the guide is built: ``sphinx-build -W docs site``. Nothing is fetched from a network."""

from __future__ import annotations

from typing import Any

from sphinx.application import Sphinx

import catalog

project = "cogcat"
author = "The cogcat authors"
copyright = author
release = version = catalog.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_click",
]
exclude_patterns = ["_build"]
myst_heading_anchors = 3
# `--json` in a help text is two hyphens.
smartquotes = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
# Signatures as they are written: `AsOf`, not what it stands for.
autodoc_type_aliases = {"AsOf": "AsOf"}
python_maximum_signature_line_length = 80
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# "ids, tile: one or several" is one entry, not the same text under each name.
napoleon_use_param = False
html_theme = "furo"
html_title = f"cogcat {release}"
html_copy_source = False
html_show_sphinx = False


def setup(app: Sphinx) -> None:
    # Before napoleon (500), which takes "A: b" in the first line of an attribute's text for a type.
    app.connect("autodoc-process-docstring", _begin_attributes_with_no_colon, priority=400)


def _begin_attributes_with_no_colon(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]
) -> None:
    if what in ("attribute", "data", "property") and lines:
        lines.insert(0, "\\")  # which reStructuredText shows as nothing
