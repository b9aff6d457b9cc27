"""Ports on the loopback interface."""

from __future__ import annotations

import errno
import secrets
import socket
from pathlib import Path

from edgefleet_contract.errors import UserInputError

LOOPBACK = "127.0.0.1"
_LOW = 20_000
_DEFAULT_HIGH = 32_767
_TRIES_N = 64
_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")


def port_is_free(port: int) -> bool:
    """Tell whether `port` can be listened on at 127.0.0.1 now (closed connections of an old listener do not count)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError as error:
            if error.errno in {errno.EADDRINUSE, errno.EACCES}:
                return False
            raise
    return True


def free_port() -> int:
    """Return a free port on 127.0.0.1 that no outgoing connection will be given.

    A server that is restarted must find its port free again. From the range for outgoing connections the kernel may
    hand the port to any client meanwhile, even to one that tries to reach this very server: it then connects to itself.

    Raises:
        UserInputError: no free port was found.
    """
    high = max(_LOW + 1, _ephemeral_start() - 1)
    for _ in range(_TRIES_N):
        port = _LOW + secrets.randbelow(high - _LOW + 1)
        if port_is_free(port):
            return port
    msg = f"no free port on {LOOPBACK} between {_LOW} and {high} after {_TRIES_N} tries"
    raise UserInputError(msg, next_step="stop programs that listen there (`ss -ltn` lists them)")


def _ephemeral_start() -> int:
    try:
        start = int(_RANGE_FILE.read_text(encoding="ascii").split()[0])
    except (OSError, ValueError, IndexError):
        return _DEFAULT_HIGH + 1
    return start if start > _LOW + 1000 else _DEFAULT_HIGH + 1


def require_port(port: int, option: str) -> int:
    """Return `port` when it can be listened on. Raises UserInputError naming the option it was given with."""
    if not 1 <= port <= 65_535:
        raise UserInputError(f"{option} {port}: not a port", next_step="give a port between 1 and 65535")
    if not port_is_free(port):
        msg = f"{option} {port}: port {port} on {LOOPBACK} is in use or not permitted"
        step = f"stop the program that uses it (`ss -ltnp 'sport = :{port}'`), or leave {option} out to get a free one"
        raise UserInputError(msg, next_step=step)
    return port


def accepts(port: int, timeout_s: float = 0.2) -> bool:
    """Tell whether something accepts connections on 127.0.0.1 at `port`."""
    try:
        with socket.create_connection((LOOPBACK, port), timeout=timeout_s):
            return True
    except OSError:
        return False
