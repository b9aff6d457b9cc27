"""The controller process: store, blobs, builds, MQTT link and HTTP API, until it is told to stop."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefleet_contract.child import exit_when_closed
from edgefleet_contract.errors import EdgefleetError, UserInputError
from edgefleet_controller.stack.home import FleetHome

log = logging.getLogger(__name__)

TOKEN_ENV = "FLEET_TOKEN"  # noqa: S105 - the variable's name, not a token
MIN_TOKEN_CHARS = 16


@dataclass(frozen=True)
class DaemonOptions:
    """How the controller was started."""

    home: FleetHome
    broker_url: str
    http_port: int
    token: str
    exit_with_stdin: bool


def parse_options(argv: Sequence[str], token: str | None) -> DaemonOptions:
    """Return the options of a command line; the token comes from the environment, where no process list shows it.

    Raises:
        UserInputError: no token, or one too short to be secret.
    """
    parser = argparse.ArgumentParser(prog="python -m edgefleet_controller.daemon", description=__doc__)
    parser.add_argument("--home", type=Path, required=True, help="the fleet's home")
    parser.add_argument("--broker", required=True, help="mqtt://host:port")
    parser.add_argument("--http-port", type=int, required=True, help="port of the API on the loopback interface")
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when standard input closes")
    options = parser.parse_args(argv)
    if token is None or len(token) < MIN_TOKEN_CHARS:
        msg = f"{TOKEN_ENV} must hold a token of at least {MIN_TOKEN_CHARS} characters"
        raise UserInputError(msg)
    return DaemonOptions(
        FleetHome(options.home), options.broker, options.http_port, token, bool(options.exit_with_stdin)
    )


def run(options: DaemonOptions) -> None:
    """Serve until SIGTERM or SIGINT."""
    from edgefleet_controller.blobs import BlobStore
    from edgefleet_controller.link import ControllerLink
    from edgefleet_controller.service import Service
    from edgefleet_controller.stack.server import create_app, serve
    from edgefleet_controller.store import Store

    home = options.home.create()
    blobs = BlobStore(home.blobs)
    with Store.open(home.database) as store:
        service = Service(store, blobs, home)
        link = ControllerLink(options.broker_url, store, blobs, service)
        service.connect(link)
        link.start()
        service.resume()
        try:
            serve(create_app(service, options.token, home.work), port=options.http_port)
        finally:
            service.stop()
            link.stop()


def main() -> int:
    """Start the controller process; return its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        options = parse_options(sys.argv[1:], os.environ.pop(TOKEN_ENV, None))
        if options.exit_with_stdin:
            exit_when_closed(sys.stdin.buffer)
        run(options)
    except EdgefleetError as error:
        log.error("%s", error)  # noqa: TRY400 - the message is for the user; a traceback would hide it
        return 2 if isinstance(error, UserInputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
