"""More of what evidence, artifacts and limits hold as columns; the views gain them.

Documents stored before are read again: what they say stands in the new columns at once, what they lack is NULL.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

VIEWS = Path(__file__).parents[1] / "views" / "0003"

_FLOAT, _COUNT, _TEXT, _FLAG = sa.Float(), sa.BigInteger(), sa.Text(), sa.Boolean()
_WORD, _NAME, _SENSOR = sa.String(32), sa.String(128), sa.String(256)

Columns = dict[str, tuple[sa.types.TypeEngine[Any], str]]
"""New column → its type, and where the stored document holds it: keys and places in a list, with dots."""

EVIDENCE: Columns = {
    "latency_reason": (_TEXT, "latency.reason"),
    "undisturbed_n": (_COUNT, "latency.undisturbed.n"),
    "undisturbed_p50_ms": (_FLOAT, "latency.undisturbed.p50_ms"),
    "undisturbed_p95_ms": (_FLOAT, "latency.undisturbed.p95_ms"),
    "undisturbed_p99_ms": (_FLOAT, "latency.undisturbed.p99_ms"),
    "max_ms": (_FLOAT, "latency.max_ms"),
    "preempted_n": (_COUNT, "latency.preempted_n"),
    "samples_per_query": (_COUNT, "latency.samples_per_query"),
    "offered_hz": (_FLOAT, "latency.rate_hz"),
    "service_p50_ms": (_FLOAT, "latency.service.p50_ms"),
    "service_p99_ms": (_FLOAT, "latency.service.p99_ms"),
    "throughput_hz": (_FLOAT, "latency.throughput_hz"),
    "throughput_ci95_low_hz": (_FLOAT, "latency.ci95_throughput_hz.0"),
    "throughput_ci95_high_hz": (_FLOAT, "latency.ci95_throughput_hz.1"),
    "top_operator": (_NAME, "latency.profile.operators.0.operator"),
    "top_operator_share": (_FLOAT, "latency.profile.operators.0.share"),
    "per_inference_ci95_low_mj": (_FLOAT, "energy.ci95_per_inference_mj.0"),
    "per_inference_ci95_high_mj": (_FLOAT, "energy.ci95_per_inference_mj.1"),
    "gross_per_inference_mj": (_FLOAT, "energy.gross_per_inference_mj"),
    "gross_per_inference_ci95_low_mj": (_FLOAT, "energy.ci95_gross_per_inference_mj.0"),
    "gross_per_inference_ci95_high_mj": (_FLOAT, "energy.ci95_gross_per_inference_mj.1"),
    "gross_j": (_FLOAT, "energy.gross_j"),
    "net_j": (_FLOAT, "energy.net_j"),
    "load_w": (_FLOAT, "energy.load_w"),
    "idle_before_w": (_FLOAT, "energy.idle_before_w"),
    "idle_after_w": (_FLOAT, "energy.idle_after_w"),
    "energy_n": (_COUNT, "energy.n"),
    "energy_sensor": (_SENSOR, "energy.sensor"),
    "energy_scope": (_NAME, "energy.scope"),
    "energy_kind": (_WORD, "energy.kind"),
    "energy_proven_on": (_TEXT, "energy.proven_on"),
    "throttled": (_FLAG, "thermal.throttled"),
    "thermal_reason": (_TEXT, "thermal.reason"),
    "hottest_start_c": (_FLOAT, "thermal.start_c"),
    "hottest_end_c": (_FLOAT, "thermal.end_c"),
    "clock_start_mhz": (_FLOAT, "thermal.clock_start_mhz"),
    "clock_end_mhz": (_FLOAT, "thermal.clock_end_mhz"),
    "accelerated_time_share": (_FLOAT, "placement.time_accelerated"),
    "accelerated_time_reason": (_TEXT, "placement.time_unmeasured_reason"),
    "placement_source": (_NAME, "placement.source"),
}
ARTIFACTS: Columns = {
    "samples_level": (_WORD, "samples_level"),
    "host_check_level": (_WORD, "host_check.level"),
    "host_check_ran_as": (_NAME, "host_check.ran_as"),
    "host_check_verdict": (_WORD, "host_check.verdict"),
    "host_check_samples_n": (_COUNT, "host_check.n_samples"),
    "host_check_agreement": (_FLOAT, "host_check.agreement"),
    "host_check_worst_sqnr_db": (_FLOAT, "host_check.worst_sqnr_db"),
    "host_check_reason": (_TEXT, "host_check.reason"),
    "coverage_source": (_WORD, "coverage.source"),
    "coverage_accelerator_n": (_COUNT, "coverage.accelerator_n"),
    "coverage_cpu_n": (_COUNT, "coverage.cpu_n"),
    "coverage_unsupported_n": (_COUNT, "coverage.unsupported_n"),
    "coverage_first_blocking": (_TEXT, "coverage.first_blocking"),
}
LIMITS: Columns = {
    "limit_scenario": (_WORD, "accept.latency.scenario"),
    "limit_if_unmeasured": (_WORD, "accept.energy.if_unmeasured"),
}


def upgrade() -> None:
    """Add the columns, fill them from the documents, and make the four views that show them anew."""
    for table, columns in (("evidence", EVIDENCE), ("artifacts", ARTIFACTS), ("desired_models", LIMITS)):
        for name, (kind, _) in columns.items():
            op.add_column(table, sa.Column(name, kind, nullable=True))
    _fill("evidence", ("device", "boot", "seq"), "body", EVIDENCE)
    _fill("artifacts", ("digest",), "document", ARTIFACTS)
    _fill_limits()
    _replace_views()


def _fill(name: str, key: tuple[str, ...], document: str, columns: Columns) -> None:
    """Fill a table's new columns. One document is held at a time: a body may have 256 KiB."""
    connection = op.get_bind()
    table = sa.table(name, *map(sa.column, key), sa.column(document, sa.JSON()), *_typed(columns))
    same = sa.and_(*(table.c[part] == sa.bindparam(f"key_{part}") for part in key))
    one, change = sa.select(table.c[document]).where(same), sa.update(table).where(same)
    for row in connection.execute(sa.select(*(table.c[part] for part in key))).all():
        where = {f"key_{part}": value for part, value in zip(key, row, strict=True)}
        connection.execute(change, {**where, **_values(connection.scalar(one, where), columns)})


def _fill_limits() -> None:
    """Fill the limits of wished models from their releases' documents."""
    connection = op.get_bind()
    releases = sa.table("releases", sa.column("digest"), sa.column("document", sa.JSON()))
    wishes = sa.table("desired_models", sa.column("release"), *_typed(LIMITS))
    change = sa.update(wishes).where(wishes.c.release == sa.bindparam("key_release"))
    wished = sa.select(releases).where(releases.c.digest.in_(sa.select(wishes.c.release)))
    for row in connection.execute(wished).all():
        connection.execute(change, {"key_release": row.digest, **_values(row.document, LIMITS)})


def _typed(columns: Columns) -> list[sa.ColumnClause[Any]]:
    return [sa.column(name, kind) for name, (kind, _) in columns.items()]


def _values(document: object, columns: Columns) -> dict[str, object]:
    return {name: _at(document, path) for name, (_, path) in columns.items()}


def _at(document: object, path: str) -> object:
    """Return what stands at a path, or None where the document does not go that far."""
    here = document
    for step in path.split("."):
        if isinstance(here, dict):
            here = here.get(step)
        elif isinstance(here, list):
            here = here[int(step)] if int(step) < len(here) else None
    return here


def _replace_views() -> None:
    paths = sorted(VIEWS.glob("*.sql"))
    for path in paths:
        op.execute(f"DROP VIEW {path.stem.partition('_')[2]}")
    for path in paths:
        op.execute(path.read_text(encoding="utf-8"))
