"""Text from outside, shown as it is."""

import re

# Numbers keep their units: a no-break space stays one.
_SPACES = re.compile("[^\\S\N{NO-BREAK SPACE}]+")
_MARKDOWN = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&^=])")


def plain(text: str) -> str:
    """Return text that Streamlit's Markdown renders letter by letter: no link, image, formula or color in it.

    For whatever holds a path, a name or a config value: a model's file may carry an image address as its name.
    """
    return _MARKDOWN.sub(r"\\\1", _SPACES.sub(" ", text).strip())
