"""The documentation site: Sphinx over every Markdown page of the repository, so that links are the same here and there.

    sphinx-build -W --keep-going -c docs . build/site

Pages about commands are written anew from the code into docs/reference/commands; C and C++ come from Doxygen, Python
from the docstrings.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from xlstm_export.version import __version__  # noqa: E402

project = "xlstm-export"
copyright = "the authors of xlstm-export, Apache-2.0"
version = release = __version__
root_doc = "docs/index"
include_patterns = [
    "docs/**.md",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "models/**.md",
    "plugins/runtime/README.md",
    "xlstm_export/bundle/FORMAT.md",
    "xlstm_export/checkpoints/families/README.md",
]
exclude_patterns = ["**/.*", "build", "bundles", "dist", "plugins/build"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "breathe", "xlstm_docs"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4
default_role = "code"  # docstrings are written with single backticks
highlight_language = "text"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_type_aliases = {
    name: name for name in ("Activations", "Dtype", "LogitsOf", "Mode", "RuntimeName", "Stage")
}  # by their names, not by what they stand for
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_numpy_docstring = False

breathe_default_project = "xlstm"
breathe_domain_by_extension = {"h": "c", "hpp": "cpp"}
breathe_default_members = ("members", "undoc-members")
breathe_show_include = False
cpp_id_attributes = ["XLSTM_API"]

html_theme = "furo"
html_title = f"xlstm-export {release}"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "to_front_page.html"}
templates_path = ["templates"]
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": True}
