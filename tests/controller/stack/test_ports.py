from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgefleet_contract.errors import UserInputError
from edgefleet_controller.stack.ports import accepts, free_port, port_is_free, require_port


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_in_use_is_the_users_error_that_names_option_and_way_out(taken: int) -> None:
    with pytest.raises(UserInputError, match=f"--broker-port {taken}: port {taken} on 127.0.0.1 is in use") as caught:
        require_port(taken, "--broker-port")
    assert "leave --broker-port out" in str(caught.value.next_step)


@pytest.mark.parametrize("port", [0, -1, 65_536])
def test_what_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(UserInputError, match="not a port"):
        require_port(port, "--broker-port")


def test_a_free_port_is_outside_the_range_the_kernel_gives_to_clients() -> None:
    port = free_port()
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert port_is_free(port)
    assert port < low
    assert require_port(port, "--broker-port") == port


def test_accepts_tells_a_listener_from_nothing(taken: int) -> None:
    assert accepts(taken)
    assert not accepts(free_port())


def test_a_port_with_closed_connections_counts_as_free(taken: int) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as listener:
        port = listener.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        served, _ = listener.accept()
        served.close()  # closed first on the server's side: its end waits in TIME_WAIT
        client.close()
    assert port_is_free(port)
