"""What other pages in the same browser, and names that point here, cannot do."""

import http.client
from urllib.parse import urlsplit

import pytest

pytestmark = pytest.mark.e2e

_UPGRADE = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("localhost", "http://localhost", 101),
        ("127.0.0.1", "http://127.0.0.1", 101),
        ("localhost", "http://evil.example", 403),
        ("evil.example", "http://evil.example", 403),
        ("evil.example", "http://localhost", 403),
    ],
)
def test_the_websocket_answers_this_machines_own_page_only(server: str, host: str, origin: str, status: int) -> None:
    port = urlsplit(server).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    own = "evil" not in origin
    headers = _UPGRADE | {"Host": f"{host}:{port}", "Origin": f"{origin}:{port}" if own else origin}
    connection.request("GET", "/_stcore/stream", headers=headers)
    assert connection.getresponse().status == status
    connection.close()
