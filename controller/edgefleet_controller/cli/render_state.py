"""Tables of what the store knows: status, devices, evidence, health, queries."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from edgefleet_contract.accept import Scenario
from edgefleet_contract.units import format_bytes, format_ms
from edgefleet_controller.api import DeviceRow, EvidenceRow, HealthFinding, HealthResult, QueryResult, StatusResult
from edgefleet_controller.cli import figures
from edgefleet_controller.cli.render_apply import draw_rows, headline
from edgefleet_controller.cli.tables import Cell, draw

if TYPE_CHECKING:
    from rich.console import Console

    from edgefleet_contract.evidence import Evidence
    from edgefleet_contract.profile import Profile


def draw_status(console: Console, status: StatusResult) -> None:
    """Draw everything on one screen: where, the last apply, devices, findings."""
    how = "running" if status.running else "not running (the store was read as it lies)"
    console.print(f"edgefleet {status.version}, controller {how}", soft_wrap=True)
    console.print(f"store: {status.store}", soft_wrap=True)
    console.print(headline(status.revision) if status.revision else "nothing was applied yet", soft_wrap=True)
    if status.devices:
        console.print()
        draw_devices(console, status.devices)
    console.print()
    if status.findings:
        console.print(f"{status.findings} health finding(s): type fleet health", style="yellow")
    else:
        console.print("no health findings", style="green")


def draw_devices(console: Console, rows: Iterable[DeviceRow]) -> None:
    """Draw one row a device."""
    now_ns = time.time_ns()
    draw(
        console,
        ["device", "site", "here", "last seen", "generation", "models"],
        [_device_cells(row, now_ns) for row in rows],
        fixed=["here", "last seen"],
    )


def _device_cells(row: DeviceRow, now_ns: int) -> Sequence[Cell]:
    here: Cell = ("online", "green") if row.online else ("offline", "yellow")
    behind = row.reported_generation < row.desired_generation
    generation = f"{row.reported_generation} of {row.desired_generation}"
    models = "\n".join(f"{one.model}: {one.variant or figures.NONE} {one.state.value}" for one in row.models)
    return [
        row.device,
        row.site,
        here,
        figures.age(row.last_seen_ns, now_ns),
        (generation, "yellow" if behind else ""),
        models or figures.NONE,
    ]


def draw_device(console: Console, row: DeviceRow) -> None:
    """Draw one device: what it is, its engines and sensors, its models with figures."""
    draw_devices(console, [row])
    if row.profile is not None:
        console.print()
        _draw_profile(console, row.profile)
    if row.models:
        draw_rows(console, row.models)


def _draw_profile(console: Console, profile: Profile) -> None:
    labels = ", ".join(f"{key}={value}" for key, value in profile.labels.items())
    sensors = ", ".join(f"{sensor.name} ({sensor.kind})" for sensor in profile.sensors)
    facts = {
        "machine": f"{profile.cpu_model}, {profile.cpu_count} CPU(s), {profile.arch}",
        "memory": f"{format_bytes(profile.memory_bytes)}, {format_bytes(profile.disk_free_bytes)} of disk free",
        "system": f"{profile.os}, kernel {profile.kernel}, Python {profile.python_version}",
        "agent": profile.agent_version,
        "labels": labels or figures.NONE,
        "sensors": sensors or figures.NONE,
        "energy": profile.energy_unmeasured_reason or "measured",
    }
    draw(console, ["profile", ""], [[name, value] for name, value in facts.items()])
    console.print()
    draw(
        console,
        ["engine", "status", "version", "reason"],
        [
            [probe.target, probe.status.value, probe.version or figures.NONE, probe.reason or ""]
            for probe in profile.engines
        ],
        fixed=["engine", "status"],
    )


def draw_evidence(console: Console, rows: Sequence[EvidenceRow]) -> None:
    """Draw one row a qualification, newest first, and why each that failed did.

    Energy has a column where a row has some; on a narrow screen it takes the digest's place.
    """
    now_ns = time.time_ns()
    with_energy = any(_energy_cell(row.evidence) != figures.NONE for row in rows)
    digests = console.width >= _DIGEST_COLUMNS or not with_energy
    last = [*(["energy"] if with_energy else []), "peak", *(["artifact"] if digests else [])]
    draw(
        console,
        ["received", "evidence of", "variant", "verdict", "parity", "p95", "n", *last],
        [[*_evidence_cells(row, now_ns), *(_LAST[name](row.evidence) for name in last)] for row in rows],
        right=["p95", "n", "energy", "peak"],
        fixed=["received", "verdict", "parity", "p95", "n", *last],
    )
    failed = [row for row in rows if row.evidence.reason]
    if failed:
        console.print()
    for row in failed:
        one = row.evidence
        gate = f" at {one.gate.value}" if one.gate else ""
        place = f"{row.device}/{one.model} {one.variant}"
        console.print(f"{place}: {one.verdict.value}{gate}: {one.reason}", soft_wrap=True)


def _evidence_cells(row: EvidenceRow, now_ns: int) -> Sequence[Cell]:
    one = row.evidence
    verdict = one.verdict.value
    return [
        figures.age(row.received_at_ns, now_ns),
        f"{row.device}/{one.model}",
        _variant_cell(one),
        (verdict, figures.verdict_style(verdict)),
        one.parity.verdict.value if one.parity else figures.NONE,
        *_latency_cells(one),
    ]


def _variant_cell(one: Evidence) -> str:
    """Return the variant, and below it the load scenario where it is not the usual one: figures mean another thing."""
    if one.latency is None or one.latency.scenario is Scenario.SINGLE_STREAM:
        return one.variant
    return f"{one.variant}\n{one.latency.scenario.value}"


def _latency_cells(one: Evidence) -> Sequence[str]:
    if one.latency is None:
        return [figures.NONE, figures.NONE]
    return [format_ms(one.latency.p95_ms), str(one.latency.n)]


def _energy_cell(one: Evidence) -> str:
    known = one.energy is not None and one.energy.per_inference_mj is not None
    return figures.energy_cell(one.energy) if known else figures.NONE


_LAST: Mapping[str, Callable[[Evidence], str]] = {
    "energy": _energy_cell,
    "peak": lambda one: figures.memory_cell(one.memory),
    "artifact": lambda one: figures.short_digest(one.artifact),
}
_DIGEST_COLUMNS = 110
"""What the evidence table needs with energy and digests, for names of usual length."""


def draw_health(console: Console, health: HealthResult) -> None:
    """Draw findings, worst first; one line when there are none."""
    if not health.findings:
        console.print(f"no findings; {len(health.checks)} check(s): {', '.join(health.checks)}", style="green")
        return
    worst_first = sorted(health.findings, key=lambda one: list(figures.SEVERITY_STYLES).index(one.severity.value))
    draw(
        console,
        ["severity", "check", "device", "model", "finding", "value", "threshold"],
        [_finding_cells(finding) for finding in reversed(worst_first)],
        right=["value", "threshold"],
        fixed=["severity"],
    )


def _finding_cells(one: HealthFinding) -> Sequence[Cell]:
    severity = one.severity.value
    unit = f" {one.unit}" if one.unit else ""
    value = figures.NONE if one.value is None else f"{one.value:g}{unit}"
    threshold = figures.NONE if one.threshold is None else f"{one.threshold:g}{unit}"
    return [
        (severity, figures.SEVERITY_STYLES[severity]),
        one.check,
        one.device or figures.NONE,
        one.model or figures.NONE,
        one.detail,
        value,
        threshold,
    ]


def draw_query(console: Console, result: QueryResult) -> None:
    """Draw rows, numbers to the right, fractions to six digits; JSON and CSV have them all."""
    numeric = [
        name
        for index, name in enumerate(result.columns)
        if result.rows and all(isinstance(row[index], (int, float, type(None))) for row in result.rows)
    ]
    rows = [[_query_cell(value) for value in row] for row in result.rows]
    draw(console, result.columns, rows, right=numeric)


def _query_cell(value: object) -> str:
    if isinstance(value, float) and abs(value) < _EXACT_FROM:
        return f"{value:.6g}"
    return "" if value is None else str(value)


_EXACT_FROM = 1e6
"""From here on six digits would cut off whole ones."""
