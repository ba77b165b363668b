"""Settings of sphinx. `python -m docs.tools.build` (`make docs`) writes the generated pages and calls it."""

from hooked_whisper import __version__

project = "hooked_whisper"
author = copyright = "The hooked_whisper developers"
version = release = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_design", "sphinx_copybutton", "docs.tools.docstrings"]
html_theme = "furo"
html_title = f"hooked_whisper {__version__}"
html_static_path = ["static"]
html_css_files = ["own.css"]
html_copy_source = False
html_theme_options = {"sidebar_hide_name": False, "top_of_page_buttons": []}
myst_enable_extensions = ["colon_fence", "attrs_inline", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "off"  # notebooks are executed by the tests; their outputs are in them
nb_merge_streams = True
suppress_warnings = ["mystnb.unknown_mime_type"]
autodoc_member_order = "groupwise"
autodoc_typehints = "none"  # signatures are written as in the source, see docs.tools.docstrings
autodoc_class_signature = "mixed"
default_role = "code"
nitpicky = False
exclude_patterns = ["tools/**"]
