"""The embedded broker as a process, spoken to by paho as agent and controller do."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import paho.mqtt.client as mqtt
import psutil
import pytest
import tomllib
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edgefleet_controller.stack.broker import MAX_PAYLOAD_BYTES, broker_config
from edgefleet_controller.stack.ports import accepts, free_port

BROKER = [sys.executable, "-m", "edgefleet_controller.stack.broker"]


def start(port: int, folder: Path) -> subprocess.Popen[bytes]:
    argv = [*BROKER, "--port", str(port), "--config-dir", str(folder)]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline_s = time.monotonic() + 20
    while not accepts(port):
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < deadline_s
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    port = free_port()
    process = start(port, tmp_path_factory.mktemp("broker"))
    yield port, process
    kill(process)


class Client:
    """A paho client whose messages are read from a queue."""

    def __init__(self, port: int, name: str, *, subscribe: str | None = None, will: str | None = None) -> None:
        self.messages: Queue[mqtt.MQTTMessage] = Queue()
        self._ready = threading.Event()
        self.client = self._make(name)
        self.client.on_socket_open = lambda _c, _u, s: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.client.on_message = lambda _c, _u, message: self.messages.put(message)
        self.client.on_subscribe = lambda *_: self._ready.set()
        self.client.on_connect = lambda *_: self.client.subscribe(subscribe, 1) if subscribe else self._ready.set()
        if will:
            self.client.will_set(will, b"gone", 1, retain=True)
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self._ready.wait(10)

    @staticmethod
    def _make(name: str) -> Any:
        return mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)

    def send(self, topic: str, payload: bytes, *, retain: bool = False, **properties: object) -> None:
        extra: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        for name, value in properties.items():
            setattr(extra, name, value)
        sent = self.client.publish(topic, payload, 1, retain=retain, properties=extra)
        sent.wait_for_publish(10)
        assert sent.is_published()

    def next(self) -> mqtt.MQTTMessage:
        return self.messages.get(timeout=10)

    def die(self) -> None:
        self.client.socket().shutdown(socket.SHUT_RDWR)
        self.client.loop_stop()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()


def test_it_listens_on_loopback_only_and_on_nothing_else(broker: tuple[int, subprocess.Popen[bytes]]) -> None:
    port, process = broker
    listening = [c.laddr for c in psutil.Process(process.pid).net_connections() if c.status == psutil.CONN_LISTEN]
    assert [(address.ip, address.port) for address in listening] == [("127.0.0.1", port)]


@pytest.mark.parametrize("size_bytes", [0, 64 * 1024, 256 * 1024, MAX_PAYLOAD_BYTES - 4096])
def test_a_payload_reaches_another_client_whole(broker: tuple[int, subprocess.Popen[bytes]], size_bytes: int) -> None:
    reader = Client(broker[0], f"reader{size_bytes}", subscribe=f"fleet/size/{size_bytes}")
    writer = Client(broker[0], f"writer{size_bytes}")
    writer.send(f"fleet/size/{size_bytes}", b"x" * size_bytes)
    assert len(reader.next().payload) == size_bytes
    reader.close()
    writer.close()


def test_user_properties_arrive(broker: tuple[int, subprocess.Popen[bytes]]) -> None:
    reader = Client(broker[0], "reader-p", subscribe="fleet/props/#")
    writer = Client(broker[0], "writer-p")
    writer.send("fleet/props/1", b"x", UserProperty=[("digest", "sha256:ab"), ("sha256", "cd")])
    properties: Any = reader.next().properties
    assert properties.UserProperty == [("digest", "sha256:ab"), ("sha256", "cd")]
    reader.close()
    writer.close()


def test_a_retained_message_waits_for_those_who_come_later(broker: tuple[int, subprocess.Popen[bytes]]) -> None:
    writer = Client(broker[0], "writer-r")
    writer.send("fleet/kept", b"desired", retain=True)
    late = Client(broker[0], "late", subscribe="fleet/kept")
    message = late.next()
    assert (message.payload, message.retain) == (b"desired", True)
    late.close()
    writer.close()


def test_the_last_will_of_a_client_that_died_is_sent(broker: tuple[int, subprocess.Popen[bytes]]) -> None:
    reader = Client(broker[0], "reader-w", subscribe="fleet/will")
    Client(broker[0], "mortal", will="fleet/will").die()
    assert reader.next().payload == b"gone"
    reader.close()


def test_a_killed_broker_is_back_on_the_same_port_with_clients_waiting(tmp_path: Path) -> None:
    port = free_port()
    process = start(port, tmp_path)
    client = Client(port, "patient", subscribe="fleet/again")
    kill(process)
    process = start(port, tmp_path)
    try:
        again = Client(port, "again", subscribe="fleet/again")
        again.send("fleet/again", b"hello")
        assert again.next().payload == b"hello"
        again.close()
    finally:
        client.close()
        kill(process)


def test_it_ends_when_its_standard_input_closes(tmp_path: Path) -> None:
    process = start(free_port(), tmp_path)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(timeout=10) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_port_in_use_ends_it_with_a_reason(broker: tuple[int, subprocess.Popen[bytes]], tmp_path: Path) -> None:
    argv = [*BROKER, "--port", str(broker[0]), "--config-dir", str(tmp_path)]
    second = subprocess.Popen(argv, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    code = second.wait(timeout=30)
    assert code == 1
    assert f"port {broker[0]} on 127.0.0.1 is in use" in second.communicate()[1].decode()


def test_the_configuration_is_one_mqtt_5_listener_and_nothing_that_serves_elsewhere() -> None:
    config = tomllib.loads(broker_config(21_000))
    assert set(config) == {"id", "router", "v5"}
    assert config["v5"]["1"]["listen"] == "127.0.0.1:21000"
    largest_window_bytes = 64 * 64 * 1024
    assert config["router"]["max_segment_size"] * (config["router"]["max_segment_count"] - 1) > largest_window_bytes
