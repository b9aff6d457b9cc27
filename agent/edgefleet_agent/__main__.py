"""`edgefleet-agent`: the device side's command line. Works with no controller reachable."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from edgefleet_agent import commands
from edgefleet_agent.config import EXIT_CODES, add_identity_options, add_meter_option, add_run_options
from edgefleet_contract.errors import EdgefleetError, UserInputError


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of every command and option."""
    parser = argparse.ArgumentParser(prog="edgefleet-agent", description=__doc__, epilog=EXIT_CODES)
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")
    sub = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = sub.add_parser("run", help="serve this device until stopped", epilog=EXIT_CODES)
    add_run_options(run)
    run.set_defaults(call=commands.run)
    probe = sub.add_parser("probe", help="print what this device is and can do", epilog=EXIT_CODES)
    add_identity_options(probe)
    probe.add_argument("--sysfs-root", metavar="DIR", help="a tree laid out like /sys to read sensors from")
    _add_output(probe)
    probe.set_defaults(call=commands.probe)
    qualify = sub.add_parser("qualify", help="prove one artifact on this device", epilog=EXIT_CODES)
    qualify.add_argument("artifact_dir", metavar="ARTIFACT_DIR", type=Path, help="folder with artifact.json")
    qualify.add_argument("--trial-timeout", metavar="DURATION", default="5m", help="longest trial (default: 5m)")
    qualify.add_argument("--test-runtimes", action="store_true", help="allow runtimes that misbehave on purpose")
    add_meter_option(qualify)
    _add_output(qualify)
    qualify.set_defaults(call=commands.qualify)
    status = sub.add_parser("status", help="print what serves and what waits", epilog=EXIT_CODES)
    _add_home(status)
    _add_output(status)
    status.set_defaults(call=commands.status)
    undo = sub.add_parser("undo", help="let a model's previous release serve again", epilog=EXIT_CODES)
    requalify = sub.add_parser("requalify", help="prove a model again", epilog=EXIT_CODES)
    for order, call in ((undo, commands.undo), (requalify, commands.requalify)):
        order.add_argument("model", metavar="MODEL", help="the model's name")
        _add_home(order)
        _add_output(order)
        order.set_defaults(call=call)
    return parser


def _add_home(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--home", metavar="DIR", help="folder of state and models [EDGEFLEET_AGENT_HOME]")


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table", help="how to print")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = build_parser().parse_args(argv)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    try:
        return int(options.call(options))
    except UserInputError as error:
        return _complain(error, 2)
    except EdgefleetError as error:
        return _complain(error, 1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130


def _complain(error: EdgefleetError, code: int) -> int:
    sys.stderr.write(f"edgefleet-agent: {error}\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
