"""What was read of each adapter: tensors, scaling, ranks, and what was left out and why."""

import json

import streamlit as st

from hiplora.measures import Inspection
from hiplora.ui import loading, shell, tables
from hiplora.ui.text import plain

MODULES = {
    "module": "Module",
    "rows": "Outputs",
    "cols": "Inputs",
    "rank": "Rank",
    "scale": "Scale",
    "norm": "Norm",
    "stable_rank": "Stable rank",
    "reason": "Not measured, because",
}
TENSORS = {"tensor": "Tensor", "shape": "Shape", "part": "What it is"}


def show(inspection: Inspection) -> None:
    """Show one adapter: what counts in its numbers, what does not, and why."""
    st.subheader(plain(inspection.adapter))
    st.markdown(plain(inspection.headline))
    scales = inspection.scales
    with st.container(horizontal=True):
        st.metric("Method", plain(inspection.method), border=True)
        st.metric("Scale of the factors' product", scales or "none", border=True)
        st.metric("Effect", inspection.effect_words, border=True)
        st.metric("Base that it names", plain(inspection.base_name.rpartition("/")[2] or "none"), border=True)
    if inspection.problem:
        st.warning(plain(inspection.problem), icon=":material/link_off:")
    for caveat in inspection.caveats:
        st.warning(plain(caveat), icon=":material/info:")
    left_out = inspection.tensors[~inspection.tensors["read"]]
    modules, tensors, settings = st.tabs(["Modules", f"Tensors that do not count ({len(left_out)})", "Settings"])
    with modules:
        # What could not be measured comes first: it is what one looks for here.
        table = inspection.modules.sort_values("reason", key=lambda reason: reason == "", kind="stable")
        shown = {
            column: title for column, title in MODULES.items() if (table[column].notna() & (table[column] != "")).any()
        }
        tables.show(table, shown, "The modules of the adapter.")
    with tensors:
        if left_out.empty:
            st.caption("All tensors of the file count in the numbers.")
        else:
            tables.show(left_out, TENSORS, "Tensors that do not count.")
    with settings:
        st.code(json.dumps(inspection.settings, indent=1, default=str), language="json")
    st.download_button(
        "JSON",
        lambda: json.dumps(inspection.to_dict(), indent=1, default=str),
        f"{inspection.adapter.replace('/', '-')}.json",
        "application/json",
        icon=":material/data_object:",
        key=f"inspect-{inspection.adapter}",
        on_click="ignore",
        help="Everything above, as `hiplora inspect --json` prints it.",
    )


session = shell.require()
study = loading.load(session)
st.title("What was read")
loading.show_problems(study)
inspections = loading.inspections(study)
if not inspections and not study.problems:
    st.info("Choose an adapter in the sidebar to see what is read of it.", icon=":material/arrow_back:")
for inspection in inspections:
    show(inspection)
