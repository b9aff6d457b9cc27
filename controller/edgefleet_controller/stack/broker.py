"""The embedded MQTT broker as a process: `python -m edgefleet_controller.stack.broker --port N --config-dir DIR`.

It runs rumqttd (from the iotcore wheel) with our own configuration: iotcore's defaults listen on every interface, speak
MQTT 3.1.1 and cap payloads at 20 KB. The process ends when its standard input closes.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from edgefleet_contract.child import exit_when_closed
from edgefleet_contract.errors import UserInputError
from edgefleet_controller.stack.ports import LOOPBACK, require_port

MAX_PAYLOAD_BYTES = 1024**2
"""Above a chunk (64 KiB) with room for desired states and reports; a client that sends more is disconnected."""

_SEGMENT_BYTES = 8 * 1024**2
_SEGMENTS_N = 4
# Per subscription filter rumqttd keeps a ring of segments in memory and drops what falls off its end. 32 MiB hold
# eight times the largest chunk window (64 x 64 KiB), and bound what a reader that stands still can cost.

_MAX_CONNECTIONS_N = 1024
_MAX_OUTGOING_N = 200
_MAX_INFLIGHT_N = 200
_CONNECT_TIMEOUT_MS = 5000


def broker_config(port: int) -> str:
    """Return rumqttd's configuration (TOML): one MQTT 5 listener on loopback, no console, no metrics, no bridge."""
    return f"""\
id = 0

[router]
id = 0
max_connections = {_MAX_CONNECTIONS_N}
max_outgoing_packet_count = {_MAX_OUTGOING_N}
max_segment_size = {_SEGMENT_BYTES}
max_segment_count = {_SEGMENTS_N}

[v5.1]
name = "mqtt5"
listen = "{LOOPBACK}:{port}"
next_connection_delay_ms = 1

[v5.1.connections]
connection_timeout_ms = {_CONNECT_TIMEOUT_MS}
max_payload_size = {MAX_PAYLOAD_BYTES}
max_inflight_count = {_MAX_INFLIGHT_N}
dynamic_filters = true
"""


def run_broker(port: int, config_dir: Path) -> None:
    """Serve until the process is killed.

    Raises:
        UserInputError: the port is in use.
    """
    require_port(port, "--port")
    path = config_dir / "broker.toml"
    path.write_text(broker_config(port), encoding="ascii")
    from iotcore.iotcore import IotCoreBroker

    IotCoreBroker(config_path=str(path)).run_forever()


def main(argv: Sequence[str] | None = None) -> None:
    """Run the broker process; it exits with code 1 and a line on standard error when it cannot start."""
    parser = argparse.ArgumentParser(prog="python -m edgefleet_controller.stack.broker", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="port on 127.0.0.1")
    parser.add_argument("--config-dir", type=Path, required=True, help="folder for the generated broker.toml")
    options = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    # rumqttd opens an error-level span for each packet; its log would be one line a message.
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
    exit_when_closed(sys.stdin.buffer)
    try:
        run_broker(options.port, options.config_dir)
    except UserInputError as error:
        sys.exit(f"the broker cannot start: {error}")


if __name__ == "__main__":
    main()
