"""Reading and writing of users' files: safetensors and JSON only, whole files or nothing."""

import ctypes
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import ml_dtypes  # noqa: F401 - teaches numpy, and so safetensors, bfloat16 and float8
import numpy as np
from safetensors import SafetensorError, safe_open

from hiplora.errors import HiploraError

if TYPE_CHECKING:
    import torch

_LFS_MAGIC = b"version https://git-lfs"
# AT_FDCWD, and RENAME_EXCHANGE or RENAME_SWAP, of the C library.
_HERE, _EXCHANGE = -100, 2
_FLOAT8 = ("F8_E4M3", "F8_E5M2")
_DTYPES = {
    **{f"float{bits}": f"F{bits}" for bits in (16, 32, 64)},
    **{f"int{bits}": f"I{bits}" for bits in (8, 16, 32, 64)},
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "uint8": "U8",
    "bool": "BOOL",
}
"""Names of numpy's dtypes in safetensors."""
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


def reject_lfs_pointer(path: Path) -> None:
    """Raise if `path` is a Git LFS pointer in place of the file itself.

    Raises:
        HiploraError: `path` is a pointer.
    """
    with path.open("rb") as file:
        if is_lfs_pointer(file.read(len(_LFS_MAGIC))):
            raise HiploraError(
                f"{path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository, or download "
                "the file again."
            )


def is_lfs_pointer(start: bytes) -> bool:
    """Return whether a file that starts so is a Git LFS pointer."""
    return start.startswith(_LFS_MAGIC)


def user_path(text: str | Path) -> Path:
    """Expand `~` in a path typed by a user.

    Raises:
        HiploraError: the text is not a path on this system.
    """
    try:
        path = Path(text).expanduser()
        path.exists()
    except (RuntimeError, OSError, ValueError) as error:
        raise HiploraError(
            f"{str(text)[:80]} is not a path that can be opened ({error}): check the spelling."
        ) from None
    return path


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        HiploraError: the file is missing, a Git LFS pointer, not JSON or not an object.
    """
    if not path.is_file():
        raise HiploraError(f"{path} is missing: pass the folder that holds it.")
    reject_lfs_pointer(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise HiploraError(f"{path} is not valid JSON ({error}): download or save it again.") from None
    if not isinstance(value, dict):
        raise HiploraError(f"{path} holds a {type(value).__name__} where a JSON object is expected.")
    return value


class TensorSource(Protocol):
    """Named tensors that are read a few at a time: a file's, or those of a model in memory."""

    @property
    def name(self) -> str:
        """Its name in errors."""

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """`{key: shape}`."""

    @property
    def identity(self) -> Hashable:
        """A key that changes whenever the tensors do."""

    def read_together(self, keys: Sequence[str]) -> list[np.ndarray]:
        """Return several tensors."""


class Tensors:
    """The tensors of one safetensors file, read a few at a time so that memory follows the largest, not the file.

    Attributes:
        path: the file.
        name: the same as text.
        shapes: `{key: shape}`, from the header alone.
        dtypes: `{key: dtype}` in safetensors' names, such as `BF16`.
        metadata: texts that the writer left in the header.
        identity: path, size and modification time of the file as it was opened.

    Raises:
        HiploraError: the file is missing, a Git LFS pointer, a pickle, or not a readable safetensors file.
    """

    def __init__(self, path: Path):
        self.path = path
        self.name = str(path)
        if path.suffix in _PICKLE_SUFFIXES:
            raise HiploraError(
                f"{path} is a pickle, which could run code when opened: convert it to safetensors first, with "
                "`save_pretrained(..., safe_serialization=True)`."
            )
        if not path.is_file():
            raise HiploraError(f"{path} is missing: pass the folder that holds it.")
        reject_lfs_pointer(path)
        try:
            self.identity: Hashable = self._stamp()
            with safe_open(path, "np") as file:
                slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118
                self.shapes = {key: tuple(each.get_shape()) for key, each in slices.items()}
                self.metadata: Mapping[str, str] = file.metadata() or {}
                self.dtypes = {key: str(each.get_dtype()) for key, each in slices.items()}
        except (SafetensorError, OSError) as error:
            raise HiploraError(
                f"{path} is not a readable safetensors file ({error}): download or save it again."
            ) from None

    def _stamp(self) -> tuple[str, int, int]:
        stat = self.path.stat()
        return str(self.path.resolve()), stat.st_size, stat.st_mtime_ns

    def _require_unchanged(self) -> None:
        """Raise where another file lies here now: its tensors and those read before do not belong together."""
        if self._stamp() != self.identity:
            raise HiploraError(f"{self.path} was replaced while it was open: open it again.")

    def read(self, key: str) -> np.ndarray:
        """Return one tensor in its stored dtype.

        Raises:
            HiploraError: the tensor is cut short, or of a dtype that numpy cannot hold.
        """
        return self.read_together([key])[0]

    def read_together(self, keys: Sequence[str]) -> list[np.ndarray]:
        """Return several tensors in their stored dtypes, float8 in float32, opening the file once.

        The file is closed again: one that stays mapped counts as memory as far as it was read, and crashes the process
        if it is truncated.

        Raises:
            HiploraError: a tensor is cut short, or of a dtype that numpy cannot hold.
        """
        found, key = [], keys[0]
        try:
            self._require_unchanged()
            with safe_open(self.path, "np") as file:
                for key in keys:
                    if self.dtypes[key] in _FLOAT8:
                        # numpy does not have these by name.
                        found.append(self.read_torch(key).float().numpy())
                    else:
                        found.append(file.get_tensor(key))
        except AttributeError:
            raise HiploraError(
                f"{self.path}: {key} is quantized ({self.dtypes[key]}): save it in 16 or 32 bits."
            ) from None
        except (SafetensorError, OSError, TypeError) as error:
            raise HiploraError(f"{self.path}: tensor {key} cannot be read ({error}).") from None
        return found

    def read_slice(self, key: str, index: int) -> np.ndarray:
        """Return one slice of a tensor's first dimension, in its stored dtype, reading no other.

        Raises:
            HiploraError: the tensor is cut short, or of a dtype that numpy cannot hold.
        """
        try:
            self._require_unchanged()
            with safe_open(self.path, "np") as file:
                return np.asarray(file.get_slice(key)[index])
        except (SafetensorError, OSError, TypeError, AttributeError) as error:
            raise HiploraError(f"{self.path}: tensor {key} cannot be read ({error}).") from None

    def place(self, key: str) -> tuple[int, int]:
        """Return where the bytes of one tensor begin in the file, and how many they are.

        Raises:
            HiploraError: the file cannot be read, or was replaced since it was opened.
        """
        self._require_unchanged()
        with self.path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            first, end = json.loads(file.read(size))[key]["data_offsets"]
        return 8 + size + first, end - first

    def read_torch(self, key: str, index: int | None = None) -> "torch.Tensor":
        """Return a tensor, or one slice of its first dimension, in a dtype that only torch has.

        Raises:
            HiploraError: the tensor is cut short.
        """
        try:
            self._require_unchanged()
            with safe_open(self.path, "pt") as file:
                return file.get_tensor(key) if index is None else file.get_slice(key)[index]
        except (SafetensorError, OSError) as error:
            raise HiploraError(f"{self.path}: tensor {key} cannot be read ({error}).") from None


class Shards:
    """The tensors of several safetensors files, as of one.

    Attributes:
        name: of the first file, in errors.
        shapes: `{key: shape}`.
        identity: of all files.
        metadata: of the first file.
    """

    def __init__(self, files: Sequence[Tensors]):
        self._files = {key: file for file in reversed(files) for key in file.shapes}
        self.name = files[0].name
        self.shapes = {key: file.shapes[key] for file in files for key in file.shapes}
        self.identity: Hashable = tuple(file.identity for file in files)
        self.metadata = files[0].metadata

    def read_together(self, keys: Sequence[str]) -> list[np.ndarray]:
        """Return several tensors; see `Tensors.read_together`."""
        return [self._files[key].read(key) for key in keys]


def require_finite(array: np.ndarray, what: str) -> np.ndarray:
    """Return `array`, or raise when it holds NaN or infinity (both load silently).

    Raises:
        HiploraError: naming `what`.
    """
    if not np.isfinite(array).all():
        raise HiploraError(f"{what} holds NaN or infinite values: the run that wrote it diverged, use an earlier one.")
    return array


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside `target` and rename it into place when the block succeeds.

    Works for a file and for a folder (the block makes whichever it wants); an existing target is replaced. When the
    block raises, nothing is left behind.

    Raises:
        HiploraError: the parent folder cannot be made or written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    except OSError as error:
        raise HiploraError(f"{target} cannot be written ({error.strerror}): choose another place.") from None
    try:
        draft = holder / target.name
        yield draft
        if not (draft.is_dir() and target.is_dir()):
            draft.replace(target)
        elif not _exchange(draft, target):
            # Elsewhere there is a moment without either.
            replaced = holder / "replaced"
            target.replace(replaced)
            try:
                draft.replace(target)
            except OSError:
                replaced.replace(target)
                raise
    except SafetensorError as error:
        raise HiploraError(f"{target} cannot be written ({error}): choose another place.") from None
    except OSError as error:
        # An error without a number is not the system's: libraries raise it for what they cannot read.
        if error.errno is None:
            raise
        raise HiploraError(f"{target} cannot be written ({error.strerror}): choose another place.") from None
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step, and return whether the system could: Linux and macOS have a call for it."""
    if os.name == "nt":
        return False
    library = ctypes.CDLL(None)
    paths = [os.fsencode(path) for path in (one, other)]
    if hasattr(library, "renameat2"):
        return bool(library.renameat2(_HERE, paths[0], _HERE, paths[1], _EXCHANGE) == 0)
    return bool(hasattr(library, "renamex_np") and library.renamex_np(*paths, _EXCHANGE) == 0)


def check_writable(cache: Path) -> None:
    """Raise before the work, not after it, if the cache folder cannot be written.

    Raises:
        HiploraError: naming the folder.
    """
    probe = cache / "probe"
    try:
        with atomic_path(probe) as draft:
            draft.touch()
        probe.unlink(missing_ok=True)
    except HiploraError:
        raise HiploraError(
            f"The cache folder {cache} cannot be written: set HIPLORA_CACHE to a folder that can."
        ) from None


def write_tensors(path: Path, tensors: Iterable[tuple[str, np.ndarray]], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, one tensor after the other: memory follows the largest, not the file.

    The library itself takes all tensors at once. Its format is an 8-byte length, a JSON header, and the data.

    Args:
        path: of the file.
        tensors: keys and arrays, taken one at a time.
        metadata: text for the header.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    with tempfile.TemporaryFile(dir=path.parent) as data:
        for key, tensor in tensors:
            array = np.ascontiguousarray(tensor)
            dtype = _DTYPES[array.dtype.name]
            header[key] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [end, end + array.nbytes]}
            data.write(array.reshape(-1).view(np.uint8).data)
            end += array.nbytes
        text = json.dumps(header).encode()
        # Data begins at a multiple of 8 bytes; spaces may end the header.
        text += b" " * (-len(text) % 8)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            data.seek(0)
            shutil.copyfileobj(data, file)


def hashes_of(folder: Path | None, suffixes: Collection[str] = (".safetensors", ".json")) -> dict[str, str]:
    """Return the SHA-256 of each file of an adapter, as hex; nothing for one that exists in memory only.

    Args:
        folder: that it was read from, or its one file.
        suffixes: of the files that count.
    """
    if folder is None:
        return {}
    found = {}
    for path in [folder] if folder.is_file() else sorted(folder.iterdir()):
        if path.is_file() and path.suffix in suffixes:
            found[path.name] = hash_of(path)
    return found


def hash_of(path: Path) -> str:
    """Return the SHA-256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
