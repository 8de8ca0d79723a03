"""`hiplora mcp`: what an assistant is told, through the protocol's own client."""

import asyncio
import json
import os
import subprocess
import sys

import pytest

import hiplora
from hiplora.cli.assistant import server
from hiplora.errors import HiploraError
from hiplora.measures import inspect
from tests.waiting import LIMIT

BOTH = ["swap-lora", "swap-hiplora"]


@pytest.fixture
def ask():
    """Return `ask(tool, **arguments) -> result`, through a client in this process."""
    client = pytest.importorskip("mcp", reason="the extra `mcp` is not installed").Client

    def ask(tool, **arguments):
        async def call():
            async with client(server()) as session:
                return await session.call_tool(tool, arguments)

        return asyncio.run(call())

    return ask


def test_every_tool_only_reads_and_says_what_it_takes():
    client = pytest.importorskip("mcp", reason="the extra `mcp` is not installed").Client

    async def tools():
        async with client(server()) as session:
            return (await session.list_tools()).tools

    found = {tool.name: tool for tool in asyncio.run(tools())}
    assert set(found) == {"list_models", "describe", "analyze", "compare"}
    for tool in found.values():
        assert tool.annotations.read_only_hint
        assert not tool.annotations.open_world_hint
        assert tool.description
    assert set(found["analyze"].input_schema["required"]) == {"base", "adapters"}


def test_an_analysis_is_the_summary_of_the_study_with_its_null(ask):
    study = hiplora.open("demo", BOTH)
    found = ask("analyze", base="demo", adapters=BOTH, worst=2).structured_content
    for row, (_, expected) in zip(found["adapters"], study.summary().iterrows(), strict=True):
        for column in ("enrichment", "pp", "pp_null", "pp_null_low", "pp_null_high", "max_tightness", "retention"):
            assert row[column] == pytest.approx(expected[column], rel=1e-12)
        # Not counted is not none.
        assert row["intruders"] is None
    assert found["judgements"]["swap-lora"]["verdict"] == study.judgements()["swap-lora"].verdict
    layers = study.layers()
    worst = [module for name in BOTH for module in layers[layers["adapter"] == name].nlargest(2, "tightness")["module"]]
    assert {row["module"] for row in found["worst_modules"]} == set(worst)


def test_a_comparison_has_the_null_of_each_cosine(ask):
    found = ask("compare", base="demo", first=BOTH[0], second=BOTH[1], most=3).structured_content
    study = hiplora.open("demo", BOTH)
    assert [row["block"] for row in found["blocks"]] == ["all", "pp", "pr", "rp", "rr"]
    assert all(row["null_sd"] > 0 for row in found["blocks"])
    expected = study.compare(*BOTH).nlargest(3, "share")
    assert [row["module"] for row in found["modules"]] == expected["module"].tolist()
    assert [row["cosine"] for row in found["modules"]] == pytest.approx(expected["cosine"].tolist(), rel=1e-12)


def test_a_description_is_that_of_inspect(ask):
    found = ask("describe", adapter="swap-lora").structured_content
    assert found == inspect(hiplora.read_adapter("swap-lora")).to_dict()


def test_the_models_that_are_known_are_listed(ask, tmp_path, monkeypatch):
    monkeypatch.setenv("HIPLORA_RUNS", str(tmp_path))
    found = ask("list_models").structured_content
    assert found["bases"][0] == "demo"
    assert set(BOTH) <= set(found["adapters_of_demo"])
    assert found["runs"] == []


def test_an_adapter_that_cannot_be_used_is_told_and_the_others_measured(ask):
    found = ask("analyze", base="demo", adapters=["swap-lora", "absent"])
    assert not found.is_error
    assert "absent is not a folder" in found.structured_content["not_measured"][0]
    refused = ask("analyze", base="demo", adapters=["absent"])
    assert refused.is_error
    assert "absent is not a folder" in refused.content[0].text


def test_nothing_but_the_protocol_is_on_stdout(cache_folder):
    pytest.importorskip("mcp", reason="the extra `mcp` is not installed")
    about = {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}}
    call = {"name": "analyze", "arguments": {"base": "demo", "adapters": ["swap-lora"]}}
    process = subprocess.Popen(
        [sys.executable, "-m", "hiplora", "mcp"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ,
    )
    try:
        for number, method, params in ((1, "initialize", about), (None, "notifications/initialized", {}),
                                       (2, "tools/call", call)):  # fmt: skip
            message = {"jsonrpc": "2.0", "method": method, "params": params} | ({"id": number} if number else {})
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            if number:
                answer = json.loads(process.stdout.readline())
                assert answer["id"] == number
        assert answer["result"]["structuredContent"]["adapters"][0]["adapter"] == "swap-lora"
    finally:
        process.stdin.close()
        left = process.stdout.read()
        process.wait(LIMIT)
    assert left == ""


def test_without_the_sdk_it_is_said_what_to_install(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp.server", None)
    with pytest.raises(HiploraError, match="needs the package mcp"):
        server()
    code, _, err = run("mcp")
    assert (code, err) == (2, ["hiplora: The MCP server needs the package mcp: `pip install 'hiplora[mcp]'`."])
