"""The first page paints quickly only while the heavy packages are imported where they are needed."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["hiplora", "hiplora.cli", "hiplora.study", "hiplora.figures", "hiplora.ui.shell"])
def test_import_loads_neither_torch_nor_transformers_nor_peft(module: str) -> None:
    code = f"import sys, {module}; print(sorted({{'torch', 'transformers', 'peft'}} & set(sys.modules)))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "[]"


def test_library_works_without_streamlit() -> None:
    code = (
        "import sys; sys.modules['streamlit'] = None\n"
        "from hiplora import analyze, figures, measures, open, HipLoraConfig"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
