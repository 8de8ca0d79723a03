"""Module names, and the place of a matrix in the network that they tell."""

import re
from collections.abc import Iterable
from itertools import takewhile

PEFT_PREFIX = "base_model.model."
_LAYER = re.compile(r"^(?P<stack>.*?)\.?\b(?P<layer>\d+)\.(?P<kind>.+)$")


def strip_peft_prefix(name: str) -> str:
    """Return a module name without PEFT's prefix, which may be there more than once."""
    while name.startswith(PEFT_PREFIX):
        name = name.removeprefix(PEFT_PREFIX)
    return name


def layer_and_kind(module: str) -> tuple[int | None, str]:
    """Split a module name into its layer number and the kind of matrix it is within a layer.

    A decoder's kinds keep `decoder.` in front, so that the two stacks of an encoder-decoder stay apart.

    >>> layer_and_kind("model.layers.3.self_attn.q_proj")
    (3, 'self_attn.q_proj')
    >>> layer_and_kind("decoder.block.0.layer.1.EncDecAttention.k")
    (0, 'decoder.layer.1.EncDecAttention.k')
    >>> layer_and_kind("lm_head")
    (None, 'lm_head')
    """
    match = _LAYER.match(module)
    if match is None:
        return None, module
    stack = "decoder." if "decoder" in match["stack"].split(".") else ""
    return int(match["layer"]), stack + match["kind"]


def with_stack(modules: Iterable[str]) -> list[str]:
    """Return the kinds of modules with the name of their stack in front, for models of several (text and vision).

    >>> with_stack(["model.text.layers.0.q", "model.vision.layers.0.q"])
    ['text.layers.q', 'vision.layers.q']
    """
    stacks, kinds = [], []
    for module in modules:
        match = _LAYER.match(module)
        stacks.append(match["stack"].split(".") if match else [])
        kinds.append(match["kind"] if match else module)
    parts = zip(*(stack for stack in stacks if stack), strict=False)
    common = sum(1 for _ in takewhile(lambda same: len(set(same)) == 1, parts))
    return [".".join([*stack[common:], kind]) for stack, kind in zip(stacks, kinds, strict=True)]
