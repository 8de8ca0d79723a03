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


class _EndedError(Exception):
    """Ends a forward pass: all maps are observed, or a stop was asked for."""


def observe(
    model: Any, maps: Sequence[str], sequences: Sequence[Sequence[int]], keep: Keep, stop: Callable[[], bool]
) -> Iterator[tuple[str, str]]:
    """Run a model on a text once, and yield `(map, name of its input)` as each map is reached.

    All sequences are one batch, so that every map sees the whole text at once and no moment waits in memory for the
    rest of it. Maps that read the very same tensor (q, k and v) share an input, which is named after the first of them.
    Padding is not counted. The model's head is not computed.

    Args:
        model: a causal language model of transformers, in evaluation mode.
        maps: names of its linear maps.
        sequences: token ids.
        keep: called once for each input, in the order in which data pass.
        stop: asked at every input; True ends the pass.
    """
    import torch

    longest = max(map(len, sequences))
    ids = torch.zeros((len(sequences), longest), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.tensor(sequence)
        mask[row, : len(sequence)] = 1
    whole = bool(mask.all())
    device = next(model.parameters()).device
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

    hooks = [
        module.register_forward_pre_hook(hook(name)) for name, module in model.named_modules() if name in set(maps)
    ]
    if (head := model.get_output_embeddings()) is not None:

        def end(*_: Any) -> None:
            raise _EndedError

        # After its own observation, where it is a map: hooks run in the order in which they were added.
        hooks.append(head.register_forward_pre_hook(end))

    def run() -> None:
        try:
            with torch.inference_mode():
                model(input_ids=ids, attention_mask=None if whole else mask, use_cache=False)
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


def perplexity(model: Any, sequences: Sequence[Sequence[int]], tokens: int = 1024) -> float:
    """Return the model's perplexity on the beginning of a text: it tells whether the base knows such text at all.

    Args:
        model: a causal language model of transformers.
        sequences: token ids; those of the first `tokens` are read.
        tokens: how many.
    """
    import torch

    loss = count = 0.0
    with torch.inference_mode():
        for sequence in sequences:
            if len(sequence) < 2:
                continue
            ids = torch.tensor([list(sequence)], device=next(model.parameters()).device)
            here = len(sequence) - 1
            loss += float(model(input_ids=ids, labels=ids, use_cache=False).loss) * here
            count += here
            if count >= tokens:
                break
    return math.exp(min(loss / count, 700.0)) if count else math.nan
