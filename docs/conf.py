"""Sphinx's configuration of the web site; `docs/build.py` gathers the pages and calls Sphinx."""
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = PROJECT["urls"]["Repository"]

project = PROJECT["name"]
author = PROJECT["authors"][0]["name"]
version = release = PROJECT["version"]
language = "en"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton"]
root_doc = "index"

exclude_patterns = ["_static"]
nb_execution_mode = "off"  # pages show the stored outputs
nb_mime_priority_overrides = [("html", "image/png", 0), ("html", "image/jpeg", 0)]
myst_enable_extensions = ["dollarmath", "attrs_inline"]
myst_heading_anchors = 3

# The site needs none of these to read docstrings.
autodoc_mock_imports = ["cv2", "filelock", "IPython", "keras", "matplotlib", "numpy", "PIL",
                        "tensorflow", "yaml"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"

html_title = "Semantic segmentation with FCN-32s"
html_context = {"default_mode": "auto"}
html_use_index = False
html_domain_indices = False
html_favicon = str(ROOT / "docs" / "_static" / "icon.svg")
html_theme = "sphinx_book_theme"
html_static_path = [str(ROOT / "build" / "site-source" / "_static")]
html_css_files = ["site.css"]
mathjax_path = "tex-svg.js"
html_theme_options = {
    "repository_url": REPOSITORY,
    "repository_branch": "main",
    "use_repository_button": True,
    "launch_buttons": {"colab_url": "https://colab.research.google.com"},
    "show_toc_level": 2,
}
