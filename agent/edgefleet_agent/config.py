"""What an agent is started with: options, or environment variables where an option is not given."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from pydantic import TypeAdapter, ValidationError

from edgefleet_agent.sensors.external import MAX_REFERENCE, METER_VARIABLE, REFERENCE
from edgefleet_contract.base import Name
from edgefleet_contract.errors import UserInputError
from edgefleet_contract.labels import LabelKey, LabelValue
from edgefleet_contract.units import parse_duration_s

EXIT_CODES = "exit codes: 0 done, 1 error, 2 usage, 3 not qualified (qualify only)"
_DEFAULT_PORT = 1883


class ConfigError(UserInputError):
    """An option of the agent is wrong."""


@dataclass(frozen=True)
class Broker:
    """Where the MQTT broker listens."""

    host: str
    port: int


@dataclass(frozen=True)
class AgentConfig:
    """Everything a resident agent is told at start.

    Attributes:
        home: folder of state, blobs, artifacts and models; one agent each.
        broker: the MQTT broker.
        device: this device's name; a topic level.
        site: the site's name; a topic level.
        labels: what selectors see.
        heartbeat_s: period of heartbeats; 10 s tells a dead device in three periods at 0.1 kbit/s.
        requalify_every_s: how often what serves is proved again; None: only when asked, or when the machine changed.
        trial_timeout_s: wall time one trial may take; the worker is killed after it.
        worker_memory_bytes: resident memory of a worker; None: 80 % of what is free when it starts.
        test_runtimes: whether runtimes that misbehave on purpose are offered.
        exit_with_stdin: whether to end when standard input closes.
    """

    home: Path
    broker: Broker
    device: str
    site: str
    labels: Mapping[str, str] = field(default_factory=dict)
    heartbeat_s: float = 10.0
    requalify_every_s: float | None = None
    trial_timeout_s: float = 300.0
    worker_memory_bytes: int | None = None
    test_runtimes: bool = False
    exit_with_stdin: bool = False


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `edgefleet-agent run`."""
    add_identity_options(parser)
    parser.add_argument("--home", metavar="DIR", help="folder of state and models [EDGEFLEET_AGENT_HOME]")
    parser.add_argument("--broker", metavar="URL", help="mqtt://host:port [EDGEFLEET_BROKER]")
    parser.add_argument("--heartbeat", metavar="DURATION", default="10s", help="period of heartbeats (default: 10s)")
    parser.add_argument("--trial-timeout", metavar="DURATION", default="5m", help="longest trial (default: 5m)")
    parser.add_argument("--requalify-every", metavar="DURATION", help="prove what serves again, up to 1d (default: no)")
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when standard input closes")
    add_meter_option(parser)


def add_meter_option(parser: argparse.ArgumentParser) -> None:
    """Declare the option that names an external power meter."""
    parser.add_argument(
        "--meter",
        metavar="MODULE:FACTORY",
        help=f"what makes the power meter on this device's input [{METER_VARIABLE}]",
    )


def meter_environment(option: str | None, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variable that tells a worker which meter to load; empty for none. Nothing is imported here.

    Raises:
        ConfigError: it is not of the form `module:factory`.
    """
    reference = option if option is not None else environ.get(METER_VARIABLE)
    if not reference:
        return {}
    if len(reference) > MAX_REFERENCE or not REFERENCE.fullmatch(reference):
        msg = f"--meter {reference[:80]!r}: write module:factory, such as my_bench.meters:joulescope"
        raise ConfigError(msg)
    return {METER_VARIABLE: reference}


def add_identity_options(parser: argparse.ArgumentParser) -> None:
    """Declare the options that say which device this is."""
    parser.add_argument("--device", metavar="NAME", help="this device's name [EDGEFLEET_DEVICE]")
    parser.add_argument("--site", metavar="NAME", help="the site's name [EDGEFLEET_SITE]")
    parser.add_argument("--label", metavar="K=V", action="append", default=[], help="a label for selectors; repeatable")
    parser.add_argument("--test-runtimes", action="store_true", help="offer runtimes that misbehave on purpose")


def config_from(options: argparse.Namespace, environ: Mapping[str, str] = os.environ) -> AgentConfig:
    """Return the configuration that options and environment describe.

    Raises:
        ConfigError: something needed is missing, or does not have its form.
    """
    return AgentConfig(
        home=Path(_given(options.home, environ, "EDGEFLEET_AGENT_HOME", "--home")).absolute(),
        broker=parse_broker(_given(options.broker, environ, "EDGEFLEET_BROKER", "--broker")),
        device=parse_name(_given(options.device, environ, "EDGEFLEET_DEVICE", "--device"), "--device"),
        site=parse_name(_given(options.site, environ, "EDGEFLEET_SITE", "--site"), "--site"),
        labels=parse_labels(options.label),
        heartbeat_s=parse_period_s(options.heartbeat, "--heartbeat"),
        requalify_every_s=parse_period_s(options.requalify_every, "--requalify-every")
        if options.requalify_every
        else None,
        trial_timeout_s=parse_period_s(options.trial_timeout, "--trial-timeout"),
        test_runtimes=options.test_runtimes,
        exit_with_stdin=options.exit_with_stdin,
    )


def _given(option: str | None, environ: Mapping[str, str], variable: str, name: str) -> str:
    value = option if option is not None else environ.get(variable)
    if not value:
        msg = f"{name} is missing"
        raise ConfigError(msg, next_step=f"give {name} or set {variable}")
    return value


def parse_broker(url: str) -> Broker:
    """Take a broker's URL apart. Raises ConfigError."""
    try:
        parts = urlsplit(url)
        port = parts.port or _DEFAULT_PORT
    except ValueError as error:
        raise _broker_error(url, str(error)) from error
    if parts.scheme == "mqtts":
        raise _broker_error(url, "TLS is not supported yet")
    if parts.scheme != "mqtt" or not parts.hostname or parts.path.strip("/") or parts.query or parts.username:
        raise _broker_error(url, "not such a URL")
    return Broker(parts.hostname, port)


def _broker_error(url: str, problem: str) -> ConfigError:
    shown = re.sub(r"//[^/@]*@", "//…@", url[:200])
    return ConfigError(f"--broker {shown!r}: {problem}; write mqtt://host:port")


def parse_name(text: str, option: str) -> str:
    """Return a device or site name. Raises ConfigError."""
    try:
        return TypeAdapter(Name).validate_python(text)
    except ValidationError as error:
        msg = f"{option} {text[:80]!r}: allowed are 1 to 63 of a-z, 0-9 and -, not at the ends"
        raise ConfigError(msg) from error


def parse_labels(texts: Sequence[str]) -> dict[str, str]:
    """Return labels given as `k=v`. Raises ConfigError."""
    labels = {}
    for text in texts:
        key, separator, value = text.partition("=")
        try:
            labels[TypeAdapter(LabelKey).validate_python(key)] = TypeAdapter(LabelValue).validate_python(value)
        except ValidationError as error:
            problem = "is not of the form key=value" if not separator else "has a key or value with other characters"
            msg = f"--label {text[:80]!r} {problem}; allowed are letters, digits, dot, underscore and -"
            raise ConfigError(msg) from error
    return labels


def parse_period_s(text: str, option: str) -> float:
    """Return a duration of 0.1 s to a day, in seconds. Raises ConfigError."""
    try:
        period_s = parse_duration_s(text)
    except ValueError as error:
        msg = f"{option} {text[:80]!r}: {error}"
        raise ConfigError(msg) from error
    if not 0.1 <= period_s <= 86400.0:
        msg = f"{option} {text[:80]!r}: allowed are 100ms to 1d"
        raise ConfigError(msg)
    return period_s
