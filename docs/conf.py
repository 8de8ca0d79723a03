"""Settings of the documentation: `python -m sphinx -n -W --keep-going docs docs/_build` builds it, without network."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from hiplora import __version__

project = "hiplora"
author = copyright = "the hiplora maintainers"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "generated",
    "gallery",
]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "hiplora"
html_logo = "../assets/logo.svg"
html_favicon = "../assets/icon.svg"
html_theme_options = {"sidebar_hide_name": True}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
# Docstrings quote code in single backticks, as Markdown does.
default_role = "code"

nitpicky = True
# What other packages define; nothing is fetched to look it up.
_FOREIGN = "abc|collections|enum|functools|go|np|numpy|pandas|pathlib|pd|peft|plotly|torch|transformers|typing"
nitpick_ignore_regex = [
    ("py:.*", rf"({_FOREIGN})\..*"),
    ("py:.*", "Path|PreTrainedModel|Tensor|Trainer|optional"),
    ("py:.*", r"hiplora\.sources\.layout\.Recipe"),  # how a weight is made is not for users
    ("py:.*", r"hiplora\.(memory\.Memory|merging\.bench\.MergeBench)"),  # nor is what is remembered
]
