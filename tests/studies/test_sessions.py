"""Twenty people on one server for five minutes while a run trains: no error, no cross-talk, and memory levels off."""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from hiplora.training import Run
from tests.e2e.conftest import SETTLED, Visit, browser, start_server, visiting

__all__ = ["browser"]

pytestmark = [pytest.mark.study, pytest.mark.timeout(1800)]

SESSIONS, SECONDS = 20, 300
PAGES = ("", "spectrum", "channels", "budget", "compare", "read")
ADAPTERS = ("swap-lora", "swap-hiplora", "edit-lora", "edit-hiplora")


def resident(process: int) -> float:
    """Return the resident memory of a process in MB."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def check(visit: Visit, k: int, name: str) -> None:
    """Check that a tab shows its own choices and no error."""
    page = visit.page
    page.wait_for_selector(SETTLED, timeout=120_000)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    expect(page.get_by_test_id("stAlertContentError")).to_have_count(0)
    expect(page.get_by_label("Principal rank k", exact=True)).to_have_value(str(k))
    expect(page.get_by_test_id("stMultiSelect")).to_contain_text(name)
    if page.url.partition("?")[0] == f"{visit.url}/":
        expect(page.get_by_role("heading", level=4).first).to_contain_text(name)
        expect(page.get_by_role("heading", level=4).first).to_contain_text(f"the top {k} directions")


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_twenty_sessions_beside_a_run(browser: Browser, tmp_path: Path) -> None:
    environment = os.environ | {"HIPLORA_CACHE": str(tmp_path / "cache"), "HIPLORA_RUNS": str(tmp_path / "runs")}
    command = [sys.executable, "-m", "hiplora", "train", "--task", "swap", "--steps", "100000", "--out", "long"]
    server, url = start_server(tmp_path / "cache", tmp_path / "runs")
    run = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    memory, visits = [], 0
    try:
        with ExitStack() as tabs:
            people = [tabs.enter_context(visiting(browser, url)) for _ in range(SESSIONS)]
            end, turn = time.monotonic() + SECONDS, 0
            while time.monotonic() < end:
                # All ask at once; then each is looked at.
                for number, visit in enumerate(people):
                    path, name = PAGES[(turn + number) % len(PAGES)], ADAPTERS[number % len(ADAPTERS)]
                    other = ADAPTERS[(number + 1) % len(ADAPTERS)]
                    query = f"k={2 + number}&adapters={name}&adapters={other}"
                    visit.page.goto(f"{url}/{path}?{query}", wait_until="commit")
                for number, visit in enumerate(people):
                    check(visit, 2 + number, ADAPTERS[number % len(ADAPTERS)])
                    visits += 1
                turn += 1
                memory.append(resident(server.pid))
            for visit in people:
                visit.assert_sound()
        assert server.poll() is None
        assert run.poll() is None
    finally:
        run.send_signal(signal.SIGINT)
        run.wait(60)
        server.terminate()
        server.wait(20)
    first, last = (memory[at] for at in (len(memory) // 2, -1))
    print(f"{visits} visits of {SESSIONS} sessions in {SECONDS} s; MB of the server: {[round(mb) for mb in memory]}")
    assert Run(tmp_path / "long").status.state == "stopped"
    assert last < 1.1 * first
