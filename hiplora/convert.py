"""Pickled tensors as safetensors: read in a process of its own, by torch's loader of weights alone.

python -m hiplora.convert INPUT OUTPUT
"""

import subprocess
import sys
from pathlib import Path

from hiplora.errors import HiploraError
from hiplora.files import atomic_path, user_path
from hiplora.paths import own_process


def convert(source: str | Path, target: str | Path | None = None) -> Path:
    """Write the tensors of a pickle, such as `adapter_model.bin`, as safetensors, and return where.

    The pickle is opened by another process, with `torch.load(weights_only=True)`, which knows tensors and plain
    containers only and runs no code of the file.

    Args:
        source: a file that `torch.save` wrote.
        target: the file to write; by default beside the pickle, with its name and the suffix `.safetensors`.

    Raises:
        HiploraError: no such file, the target exists already, the pickle holds more than tensors, or it is damaged.
    """
    path = user_path(source)
    if not path.is_file():
        raise HiploraError(f"{path} is not a file: pass the pickle itself, such as adapter_model.bin.")
    out = path.with_suffix(".safetensors") if target is None else user_path(target)
    if out.exists():
        raise HiploraError(f"{out} exists already: remove it, or name another file to write.")
    command, environment = own_process("hiplora.convert")
    with atomic_path(out) as draft:
        done = subprocess.run(
            [*command, str(path.absolute()), str(draft.absolute())],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode or not draft.is_file():
            said = done.stderr.strip().splitlines()[-1:] or [f"it ended with code {done.returncode}"]
            raise HiploraError(
                f"{path} cannot be converted ({said[0][:300]}): save it as safetensors where it was made."
            )
    return out


def _write(source: Path, target: Path) -> None:
    """Convert within this process."""
    import torch
    from safetensors.torch import save_file

    try:
        found = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:
        sys.exit(f"it holds more than tensors, or is damaged: {str(error).partition(chr(10))[0][:200]}")
    # Trainers put the tensors one level down.
    for name in ("state_dict", "model"):
        found = found[name] if isinstance(found, dict) and isinstance(found.get(name), dict) else found
    tensors = {
        key: torch.as_tensor(value).detach().contiguous().clone()
        for key, value in (found.items() if isinstance(found, dict) else ())
        # Some tools keep a number, such as alpha, as one.
        if isinstance(key, str) and isinstance(value, torch.Tensor | int | float)
    }
    if isinstance(found, dict) and (others := [str(key) for key in found if key not in tensors]):
        sys.exit(f"it holds more than tensors: {', '.join(others[:5])}")
    if not tensors:
        sys.exit("it holds no tensors by name")
    save_file(tensors, target, {"format": "pt"})


if __name__ == "__main__":
    _write(Path(sys.argv[1]), Path(sys.argv[2]))
