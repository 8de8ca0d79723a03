"""The tests themselves have no network, so that whatever asks for it is seen."""

import socket
import subprocess
import sys
import urllib.request

import pytest


def test_another_machine_cannot_be_reached() -> None:
    for ask in (
        lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
        lambda: urllib.request.urlopen("http://huggingface.co", timeout=1),
    ):
        with pytest.raises(OSError, match="the tests have no network"):
            ask()


def test_nor_from_a_process_that_a_test_starts() -> None:
    code = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "the tests have no network" in done.stderr


def test_this_machine_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()
