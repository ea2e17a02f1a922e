"""The site's settings. `make docs` writes docs/_build/html, which needs no server and no network.

We use Sphinx with MyST-NB because one tool then builds Markdown pages, chapters whose code runs,
and a reference whose names link to each other. Sphinx is well kept, and its search works from disk.
(MkDocs Material is in maintenance mode, Zensical is young, and pdoc has no chapters.)
"""

import os
import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "_ext")]
# A chapter imports the package and the files beside it. Its kernel draws SVG.
os.environ["PYTHONPATH"] = os.pathsep.join(map(str, [DOCS.parent, DOCS / "lesson"]))
os.environ["JUPYTER_PATH"] = str(DOCS / "_ext" / "jupyter")

import tinybn  # noqa: E402

project = "tinybn"
author = "the authors of tinybn"
version = release = tinybn.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "docstrings",
    "mathml",
    "microscope",
    "notebooks",
    "root_pages",
]
exclude_patterns = ["_build", "_ext", "_static", "_templates"]
nitpicky = False  # the signatures name types of other libraries
maximum_signature_line_length = 84
default_role = "py:obj"
toc_object_entries_show_parents = "hide"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Attributes", "params_style")]

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath", "amsmath"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
nb_execution_mode = "force"
nb_execution_in_temp = True
nb_execution_raise_on_error = True
nb_execution_timeout = 300
nb_merge_streams = True
nb_code_prompt_show = "Show the code"
nb_code_prompt_hide = "Hide the code"
nb_render_image_options = {"align": "center"}

html_theme = "furo"
html_title = "tinybn"
html_static_path = ["_static"]
html_css_files = ["site.css"]
templates_path = ["_templates"]
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # a page from disk may not read the others
html_show_copyright = False
html_math_renderer = "mathml"
pygments_style = "friendly"
pygments_dark_style = "native"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
_FONTS = {
    "font-stack": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, "
    "sans-serif",
    "font-stack--monospace": "ui-monospace, SFMono-Regular, Menlo, Consolas, 'DejaVu Sans Mono', "
    "'Liberation Mono', monospace",
}
html_theme_options = {
    "top_of_page_buttons": [],
    "light_css_variables": {
        **_FONTS,
        "color-brand-primary": "#1f5f99",
        "color-brand-content": "#1f5f99",
        "color-brand-visited": "#1f5f99",
        "color-code-background": "#f5f6f8",
    },
    "dark_css_variables": {
        "color-brand-primary": "#8ab8e6",
        "color-brand-content": "#8ab8e6",
        "color-brand-visited": "#8ab8e6",
    },
}
