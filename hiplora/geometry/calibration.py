"""The inputs of a base on a text: observed once, kept on disk under a key of their content."""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from hiplora.errors import HiploraError
from hiplora.files import Tensors, atomic_path, check_writable, read_json
from hiplora.geometry.collect import observe
from hiplora.geometry.moments import Moments
from hiplora.geometry.texts import (
    LEAST_TOKENS,
    Text,
    by_lines,
    check_tokens,
    default_text,
    doubt,
    sequences,
    unknown_share,
)
from hiplora.settings import COUNT, DEFAULT_TOKENS
from hiplora.sources.streamed import stream_causal_lm
from hiplora.sources.transformers_models import load_tokenizer
from hiplora.spectrum import BaseSpectra
from hiplora.spectrum.prepare import Progress, resolve_device

SHIPPED = "inputs"
"""A folder of this name beside a base's weights holds its own calibration."""
_INDEX = "inputs.json"
_VERSION = 2
_OF_NO_EFFECT = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""Settings of a model that do not change what it computes here."""
_OF_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt")
_LARGEST = 1e300


class Calibration:
    """What reaches each linear map of a base on a text.

    Args:
        spectra: of the base's weights; their cache keeps the calibration too.
        text: to be read; by default the calibration that the base brings along, and else English that comes with
            Python.
        tokens: of the text, at most.
        beside: whether it is kept beside the base, in place of the cache: everyone who has the base then has it.

    Raises:
        HiploraError: `tokens` is not a number of tokens, or the calibration beside the base is of other weights.
    """

    def __init__(
        self, spectra: BaseSpectra, text: Text | None = None, tokens: int = DEFAULT_TOKENS, *, beside: bool = False
    ):
        COUNT.require("tokens", tokens)
        if tokens < LEAST_TOKENS:
            raise HiploraError(
                f"tokens must be at least {LEAST_TOKENS}, got {tokens}: fewer do not show typical inputs."
            )
        self.base = spectra.base
        self.tokens = tokens
        self._spectra = spectra
        self._text = text
        self._written_beside = beside
        # The index and the moments that were read last, each with what tells whether they still hold.
        self._read: tuple[Any, dict[str, Any]] = (None, {})
        self._last: tuple[Any, Any] = (None, None)
        if text is None and tokens != DEFAULT_TOKENS and self._beside:
            raise HiploraError(
                f"{self.base.name} brings its own inputs along: name a text to observe another number of tokens."
            )

    @property
    def _beside(self) -> bool:
        return self._written_beside or (self._text is None and (self.base.path / SHIPPED / _INDEX).is_file())

    @cached_property
    def text(self) -> Text:
        """The text that is read where nothing is kept."""
        return self._text or default_text()

    @cached_property
    def base_hash(self) -> str:
        """SHA-256 of all that the inputs depend on, as hex: matrices, vectors, config and tokenizer.

        Hashes of matrices are remembered per file.
        """
        weights = sorted(self.base.weights.values(), key=lambda weight: weight.key)
        matrices = [(weight.key, self._spectra.weight_hash(weight)) for weight in weights]
        config = {name: value for name, value in self.base.config.items() if name not in _OF_NO_EFFECT}
        found = hashlib.sha256(json.dumps([matrices, config], sort_keys=True).encode())
        for file in self.base.files:
            for key in sorted(key for key, shape in file.shapes.items() if len(shape) < 2):
                found.update(key.encode() + np.ascontiguousarray(file.read(key)).tobytes())
        for name in _OF_TOKENIZERS:
            if (path := self.base.path / name).is_file():
                found.update(name.encode() + path.read_bytes())
        return found.hexdigest()

    @cached_property
    def key(self) -> str:
        """Hash of base, text and number of tokens, as hex: what is kept under another is not used."""
        found = json.dumps([_VERSION, self.base_hash, self.text.digest, self.tokens])
        return hashlib.sha256(found.encode()).hexdigest()[:32]

    @property
    def folder(self) -> Path:
        """The folder that keeps it: beside the base, or in the cache."""
        return self.base.path / SHIPPED if self._beside else self._spectra.cache.folder / "inputs" / self.key

    @property
    def ready(self) -> bool:
        """Whether it is complete."""
        path = self.folder / _INDEX
        if not path.is_file():
            return False
        # What a base brings along may be of any text; what is asked for must be of this one.
        return self._text is None or self._index_at(path).get("key") == self.key

    @property
    def index(self) -> dict[str, Any]:
        """The maps and their inputs, and how the text was read.

        Raises:
            HiploraError: it is not complete, damaged, or belongs to other weights.
        """
        return self._index_at(self.folder / _INDEX)

    def _index_at(self, path: Path) -> dict[str, Any]:
        try:
            stat = path.stat()
        except OSError:
            raise HiploraError(f"{path} is missing: run `hiplora calibrate`.") from None
        seen = (path, stat.st_mtime_ns, stat.st_size)
        if self._read[0] != seen:
            found = read_json(path)
            if found.get("base") != self.base_hash or found.get("version") != _VERSION:
                raise HiploraError(
                    f"{path.parent} holds the inputs of other weights than those of {self.base.name}: remove the "
                    "folder, and run `hiplora calibrate`."
                )
            if not _is_whole(found):
                raise HiploraError(f"{path} is damaged: remove {path.parent}, and run `hiplora calibrate`.")
            self._read = (seen, found)
        return self._read[1]

    @property
    def name(self) -> str:
        """The text and its length, in words."""
        if not self.ready:
            return f"{self.text.name}, up to {self.tokens:,} tokens"
        return f"{self.index['text']}, {self.index['tokens']:,} tokens"

    @property
    def notes(self) -> list[str]:
        """Caveats on the text and on what is held, one sentence each."""
        found = []
        index = self.index
        if index["doubt"]:
            found.append(
                f"The base hardly knows {index['text']} ({index['doubt']}): these may not be the inputs of its usual "
                "work."
            )
        differences = [each["difference"] for each in index["inputs"].values()]
        if differences and (typical := float(np.median(differences))) > 0.2:
            found.append(f"Halves of the text differ by {typical:.0%} in the second moment of their inputs: read more.")
        errors = [each["error"] for each in index["inputs"].values()]
        if errors and max(errors) > 0.01:
            found.append(f"Of large inputs the leading components are held: off by up to {max(errors):.1%}.")
        return found

    def __contains__(self, module: str) -> bool:
        return module in self.index["maps"]

    def digest(self, module: str) -> str:
        """Return the hash of the moments of a map's inputs, as hex.

        Raises:
            HiploraError: the map's inputs were not observed.
        """
        return str(self.index["inputs"][self._input(module)]["digest"])

    def moments(self, module: str) -> Moments:
        """Return the moments of a map's inputs.

        Raises:
            HiploraError: the map's inputs were not observed, or the file is damaged.
        """
        name = self._input(module)
        digest = self.index["inputs"][name]["digest"]
        if self._last[0] == (name, digest):
            return self._last[1]
        moments = self._load(name, any_text=True)
        if moments.digest != digest:
            raise HiploraError(f"{self._file(name)} is damaged: remove {self.folder}, and run `hiplora calibrate`.")
        if not self._beside:
            with suppress(OSError):  # a shared cache may belong to someone else
                os.utime(self._file(name))
        # Maps in a row share their input.
        self._last = ((name, digest), moments)
        return moments

    def run(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Progress]:
        """Observe the base on the text, yielding progress after each map. What a stop leaves is kept for the next call.

        Args:
            stop: asked at every input; True ends the work.

        Raises:
            HiploraError: the base is not a causal language model, the text is too short, or the cache cannot be
                written.
        """
        if self.ready:
            return
        check_writable(self.folder.parent)
        maps = self.base.linear_maps
        yield Progress(0, len(maps), 0.0, "", None)
        tokenizer = load_tokenizer(self.base.path)
        device = resolve_device(self._spectra.device)
        model, missing = stream_causal_lm(self.base, device)
        headless = any(not name.startswith(f"{model.base_model_prefix}.") for name in missing)
        read = self._read_text(model, tokenizer)
        inputs: dict[str, dict[str, Any]] = {}

        def keep(name: str, compute: Callable[[], Moments]) -> None:
            moments = None
            with suppress(HiploraError):
                moments = self._load(name)
            if moments is None:
                moments = compute()
                self._store(name, moments)
            inputs[name] = {
                "digest": moments.digest,
                "error": moments.error,
                "difference": moments.difference,
                "components": len(moments.values),
            }

        found: dict[str, str] = {}
        stopped = False

        def stop_here() -> bool:
            nonlocal stopped
            stopped = stopped or stop()
            return stopped

        start = time.monotonic()
        # A base that reads lines, such as the demo's, learned their answers only.
        heard: list[float] = []
        hear = None if headless or by_lines(tokenizer) else heard.append
        for module, name in observe(model, maps, read, keep, stop_here, hear, device=device, headless=headless):
            found[module] = name
            share = len(found) / len(maps)
            yield Progress(len(found), len(maps), share, module, (time.monotonic() - start) * (1 / share - 1))
        if stopped:
            return
        if not found:
            raise HiploraError(
                f"None of the maps of {self.base.name} is in the causal language model that transformers makes of it: "
                "the geometry of the inputs needs one."
            )
        index = {
            "version": _VERSION,
            "key": self.key,
            "base": self.base_hash,
            "text": self.text.name,
            "tokens": sum(map(len, read)),
            "sequences": len(read),
            "unknown": unknown_share(read, tokenizer.unk_token_id),
            "perplexity": (surprise := next(iter(heard), None)),
            "doubt": doubt(read, tokenizer.unk_token_id, surprise, model.config.get_text_config().vocab_size),
            "maps": found,
            "inputs": inputs,
        }
        with atomic_path(self.folder / _INDEX) as draft:
            draft.write_text(json.dumps(index, indent=1) + "\n")
        if not self._beside:
            self._spectra.cache.make_room(keep=self.folder)

    def _read_text(self, model: Any, tokenizer: Any) -> list[list[int]]:
        """Return the text as token ids, in windows that the model can read."""
        config = model.config.get_text_config()
        longest = getattr(config, "max_position_embeddings", None) or DEFAULT_TOKENS
        read = sequences(self.text, tokenizer, longest, self.tokens)
        check_tokens(read, model.get_input_embeddings().weight.shape[0], self.base.path)
        return read

    def complete(self) -> "Calibration":
        """Observe the base if that is not done yet, and return the calibration.

        Raises:
            HiploraError: as `run`.
        """
        for _ in self.run():
            pass
        return self

    def _input(self, module: str) -> str:
        name = self.index["maps"].get(module)
        if name is None:
            raise HiploraError(f"The inputs of {module} are not observed, as those of embeddings and fused experts.")
        return str(name)

    def _file(self, name: str) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.safetensors"

    def _store(self, name: str, moments: Moments) -> None:
        numbers = np.array([moments.rest, moments.error, moments.difference])
        tensors = {"vectors": moments.vectors, "values": moments.values, "numbers": numbers}
        with atomic_path(self._file(name)) as draft:
            save_file(tensors, draft, {"key": self.key})

    def _load(self, name: str, *, any_text: bool = False) -> Moments:
        """Return what is kept of an input.

        Args:
            name: of the input.
            any_text: whether it may be of another text than this one, as the base brings it along.

        Raises:
            HiploraError: it is not there, of another text, or damaged.
        """
        file = Tensors(self._file(name))
        try:
            if not any_text and file.metadata.get("key") != self.key:
                raise ValueError("it is of another text")
            vectors, values, numbers = file.read_together(["vectors", "values", "numbers"])
            rest, error, difference = (float(number) for number in numbers)
        except (KeyError, ValueError):
            raise HiploraError(f"{file.path} is damaged: remove {self.folder}, and run `hiplora calibrate`.") from None
        return Moments(vectors, values, rest, error, difference)


def _is_whole(index: dict[str, Any]) -> bool:
    """Return whether an index has what is read of it: it may come from anyone."""

    def number(value: Any) -> bool:
        # NaN compares false.
        return isinstance(value, int | float) and abs(value) < _LARGEST

    maps, inputs = index.get("maps"), index.get("inputs")
    return (
        isinstance(index.get("text"), str)
        and isinstance(index.get("doubt"), str)
        and isinstance(index.get("tokens"), int)
        and number(index["tokens"])
        and isinstance(maps, dict)
        and isinstance(inputs, dict)
        and all(isinstance(each, dict) and isinstance(each.get("digest"), str) for each in inputs.values())
        and all(number(each.get(name)) for each in inputs.values() for name in ("error", "difference"))
        and all(isinstance(name, str) and name in inputs for name in maps.values())
    )
