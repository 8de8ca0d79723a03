"""The report of what is shown, to be taken away."""

import streamlit as st

from hiplora.study import Study


def offer(study: Study) -> None:
    """Show a button that downloads the report as one HTML page.

    Args:
        study: measured, with at least one update.
    """
    st.download_button(
        "Report",
        lambda: study.to_html(),
        "hiplora-report.html",
        "text/html",
        icon=":material/summarize:",
        key="report",
        on_click="ignore",
        help="Findings, tables, figures, caveats and the hashes of all inputs, as one HTML page of about 2 MB "
        "that needs no network.",
    )
