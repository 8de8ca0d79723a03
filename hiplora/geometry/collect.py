"""What reaches each linear map of a base when it reads a text: observed in one pass, kept map by map."""

import math
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hiplora.geometry.moments import Moments, moments_of

if TYPE_CHECKING:
    import torch

Keep = Callable[[str, Callable[[], Moments]], None]
"""Given the name of an input and how its moments are computed: computes and keeps them, or finds them kept."""


_HEARD = 1024
"""Tokens that the perplexity is of, or those of the sequence in which so many are reached."""


class _EndedError(Exception):
    """Ends a forward pass: all maps are observed, or a stop was asked for."""


def observe(
    model: Any,
    maps: Sequence[str],
    sequences: Sequence[Sequence[int]],
    keep: Keep,
    stop: Callable[[], bool],
    heard: Callable[[float], None] | None = None,
    *,
    device: str = "cpu",
    headless: bool = False,
) -> Iterator[tuple[str, str]]:
    """Run a model on a text once, and yield `(map, name of its input)` as each map is reached.

    All sequences are one batch, so that every map sees the whole text at once, no moment waits in memory for the rest
    of it, and a model that is read from disk is read once. Maps that read the very same tensor (q, k and v) share an
    input, which is named after the first of them. Padding is not counted.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        maps: names of its linear maps.
        sequences: token ids.
        keep: called once for each input, in the order in which data pass.
        stop: asked at every input; True ends the pass.
        heard: given the model's perplexity on the beginning of the text, which tells whether it knows such text at all;
            the head is computed for that alone.
        device: to compute on.
        headless: whether the model has no head of its own; the pass then ends with its body.
    """
    import torch

    longest = max(map(len, sequences))
    ids = torch.zeros((len(sequences), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    whole = bool(mask.all())
    ids, mask = ids.to(device), mask.to(device)
    found: queue.Queue[Any] = queue.Queue()
    last: list[Any] = [None, ""]
    closed: list[bool] = []

    def reached(name: str, x: "torch.Tensor") -> None:
        if x is not last[0]:
            if closed or stop():
                raise _EndedError
            last[:] = [x, name]
            rows = x.reshape(-1, x.shape[-1])
            keep(name, lambda: moments_of(rows if whole else rows[mask.reshape(-1).bool()]))
        found.put((name, last[1]))

    def hook(name: str) -> Callable[[Any, tuple[Any, ...]], None]:
        def before(_: Any, arguments: tuple[Any, ...]) -> None:
            # A router or an expert sees a part of the tokens: its inputs are not those of the text.
            if arguments and arguments[0].numel() // arguments[0].shape[-1] == mask.numel():
                reached(name, arguments[0])

        return before

    def end(*_: Any) -> None:
        raise _EndedError

    beginning = _beginning(sequences)

    def shorten(_: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        return (arguments[0][:beginning], *arguments[1:])

    hooks = []
    if headless:
        hooks.append(model.base_model.register_forward_hook(end))
    elif (head := model.get_output_embeddings()) is not None:
        # Before its weight is read, where it is read from disk, and after its own observation, where it is a map.
        hooks.append(head.register_forward_pre_hook(end if heard is None else shorten, prepend=True))
    for name, module in model.named_modules():
        if name in set(maps):
            hooks.append(module.register_forward_pre_hook(hook(name), prepend=True))

    def run() -> None:
        try:
            with torch.inference_mode():
                logits = model(input_ids=ids, attention_mask=None if whole else mask, use_cache=False).logits
                if heard is not None:
                    heard(_perplexity(logits, sequences))
        except _EndedError:
            pass
        except BaseException as error:
            found.put(error)
        found.put(None)

    # A thread, since a forward pass cannot yield.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while (item := found.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        closed.append(True)
        thread.join()
        for each in hooks:
            each.remove()


def _beginning(sequences: Sequence[Sequence[int]]) -> int:
    """Return how many sequences hold the first `_HEARD` tokens that can be foretold."""
    count = 0
    for number, sequence in enumerate(sequences):
        if count >= _HEARD:
            return number
        count += max(len(sequence) - 1, 0)
    return len(sequences)


def _perplexity(logits: "torch.Tensor", sequences: Sequence[Sequence[int]]) -> float:
    """Return the perplexity of the first sequences.

    Args:
        logits: (first sequences, tokens, vocabulary).
        sequences: token ids.
    """
    import torch
    from torch.nn.functional import cross_entropy

    loss = count = 0.0
    for found, sequence in zip(logits, sequences, strict=False):
        if len(sequence) > 1:
            following = torch.tensor(sequence[1:], device=logits.device)
            loss += float(cross_entropy(found[: len(following)].float(), following, reduction="sum"))
            count += len(following)
    return math.exp(min(loss / count, 700.0)) if count else math.nan
