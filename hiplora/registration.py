"""HiP-LoRA in PEFT's tables of methods, whichever is imported first: `import hiplora`, or PEFT.

PEFT and torch are never imported for it. The entries themselves are made by `hiplora.tuner`.
"""

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec


def register_with_peft() -> None:
    """Register the method at once if PEFT is imported, else as soon as it is; further calls change nothing."""
    peft = sys.modules.get("peft")
    if peft is not None and not _is_importing(peft):
        _register()
        return
    if _PeftFinder not in sys.meta_path:
        sys.meta_path.insert(0, _PeftFinder)
    if type(peft) is ModuleType:
        # PEFT is being imported right now, by another thread or around this very import.
        peft.__class__ = _UnfinishedPeft


def _register() -> None:
    # A package that is being imported registers when it is done. Waiting for it here could be a deadlock: it may be
    # another thread's import, which waits for PEFT.
    if "hiplora.tuner" in sys.modules:
        return
    try:
        importlib.import_module("hiplora.tuner")
    except Exception as error:
        import warnings

        # `import peft` must not fail because of this package.
        warnings.warn(
            f"HiP-LoRA could not be registered with PEFT ({type(error).__name__}: {error}): install the versions that "
            "hiplora requires.",
            stacklevel=2,
        )


def _is_importing(module: ModuleType) -> bool:
    return bool(getattr(getattr(module, "__spec__", None), "_initializing", False))


class _PeftFinder:
    """Finds PEFT as the finders behind it do, with a loader that has the method registered afterwards.

    It stays on `sys.meta_path`, where it costs one comparison an import: before Python 3.14 a finder that is taken out
    makes another thread's import skip the next one (https://github.com/python/cpython/issues/130094).
    """

    @classmethod
    def find_spec(
        cls, fullname: str, path: "Sequence[str] | None" = None, target: ModuleType | None = None
    ) -> "ModuleSpec | None":
        if fullname != "peft":
            return None
        for finder in sys.meta_path[sys.meta_path.index(cls) + 1 :]:
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _PeftLoader(spec.loader)  # type: ignore[assignment]
                return spec
        return None


class _PeftLoader:
    """Loads PEFT as another loader does, and registers the method once that is done.

    Not an `importlib.abc.Loader`, whose import takes longer than that of this package.

    Args:
        loader: the other one, which provides all other attributes.
    """

    def __init__(self, loader: Any):
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_loader"), name)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__loader__ = module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        _register()


class _UnfinishedPeft(ModuleType):
    """PEFT during its import: the first use after that registers the method."""

    def __getattribute__(self, name: str) -> Any:
        if not name.startswith("__") and not _is_importing(self):
            self.__class__ = ModuleType  # type: ignore[assignment]
            _register()
        return ModuleType.__getattribute__(self, name)
