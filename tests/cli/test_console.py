"""What the command line says of long work."""

import hiplora
from hiplora.cli.console import show_progress


def test_where_there_is_no_terminal_progress_is_said_in_lines(capsys, llama_base, lora_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("HIPLORA_CACHE", str(tmp_path))
    study = hiplora.open(llama_base, [lora_folder], k=4)
    assert show_progress("spectra", study.prepare(), every=0.0) == 14
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].startswith("spectra 100%, 14 of 14 maps")
    assert len(lines) >= 14


def test_quick_work_is_not_worth_a_line(capsys, llama_base, lora_folder):
    show_progress("spectra", hiplora.open(llama_base, [lora_folder], k=4).prepare())
    assert not capsys.readouterr().err
