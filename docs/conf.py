"""Sphinx settings; `make docs` builds the pages with warnings as errors."""

from pathlib import Path
import re
import sys

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

project = 'regvpr_ros'
author = 'The regvpr_ros authors'
release = re.search(r'<version>(.+?)</version>', (ROOT / 'package.xml').read_text())[1]
copyright = author

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.napoleon', 'sphinx.ext.mathjax']
myst_enable_extensions = ['colon_fence', 'deflist', 'dollarmath']
myst_heading_anchors = 3
source_suffix = {'.md': 'markdown'}
exclude_patterns = ['_build']
html_theme = 'furo'
html_title = f'regvpr_ros {release}'
html_static_path = ['_static']
html_css_files = ['regvpr.css']
autodoc_typehints = 'description'
autodoc_member_order = 'bysource'
nitpicky = False


def write_generated() -> None:
    """Write the pages that come from the code."""
    from tools import make_reference

    make_reference.write(Path(__file__).parent / 'reference' / 'generated')


write_generated()
