"""Sphinx configuration: `make docs-site` builds build/site."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

project = "lifelong-reid"
author = "The lifelong-reid authors"
copyright = "the lifelong-reid authors"
version = release = "0.1.0"

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
]
source_suffix = {".md": "markdown"}
root_doc = "index"
exclude_patterns = ["_build"]

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

highlight_language = "none"  # for blocks without a language
default_role = "code"  # `name` in a docstring is code
nitpicky = False
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "exclude-members": "model_config",
}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True

html_theme = "furo"
html_title = "lifelong-reid"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
copybutton_prompt_text = r"\$ |>>> "
copybutton_prompt_is_regexp = True


def escape_bars(*arguments: Any) -> None:
    """Escape the bars of norms, which reStructuredText would read as |substitutions|."""
    lines: list[str] = arguments[-1]
    for index, line in enumerate(lines):
        parts = line.split("`")  # odd parts are code
        parts[::2] = [part.replace("|", r"\|") for part in parts[::2]]
        lines[index] = "`".join(parts)


def setup(app: Any) -> None:
    """Register the docstring filter."""
    app.connect("autodoc-process-docstring", escape_bars)
