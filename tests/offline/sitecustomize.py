"""No network for the tests and every Python process that they start: only this machine answers."""

import socket
from ipaddress import ip_address
from typing import Any

_connect, _resolve = socket.socket.connect, socket.getaddrinfo


class NetworkDeniedError(OSError):
    """Something asked for another machine."""


def _require_here(host: Any) -> None:
    if host in (None, "", "localhost", b"localhost", "0.0.0.0", "::", socket.gethostname()):
        return
    try:
        here = ip_address(host.decode() if isinstance(host, bytes) else str(host)).is_loopback
    except ValueError:
        here = False
    if not here:
        raise NetworkDeniedError(f"the tests have no network, and something asked for {host!r}")


def _guarded_connect(self: socket.socket, address: Any) -> None:
    if self.family in (socket.AF_INET, socket.AF_INET6):
        _require_here(address[0])
    _connect(self, address)


def _guarded_resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
    _require_here(host)
    return _resolve(host, *args, **kwargs)


socket.socket.connect = _guarded_connect  # type: ignore[method-assign]
socket.getaddrinfo = _guarded_resolve
