"""Untrusted text, shown literally."""

import re

# No-break spaces stay, so that numbers keep their units.
_SPACES = re.compile("[^\\S\N{NO-BREAK SPACE}]+")
# A hyphen within a word is none of Markdown's; escaped, it is read out in the label of a control.
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+.!|~$:&^=]|(?<!\w)-|-(?!\w))")


def plain(text: str) -> str:
    """Return text that Streamlit's Markdown renders literally: no link, image, formula or color in it.

    Use it for any path, name or config value: a model's file may have an image address as its name.
    """
    return _MARKDOWN.sub(r"\\\1", _SPACES.sub(" ", text).strip())
