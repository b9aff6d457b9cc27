"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create every table."""
    _devices()
    _revisions()
    _artifacts()
    _desired()
    _reports()
    _evidence()


def _devices() -> None:
    op.create_table(
        "devices",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("site", sa.String(length=63), nullable=False),
        sa.Column("online", sa.Boolean(), nullable=False),
        sa.Column("last_seen_ns", sa.BigInteger(), nullable=True),
        sa.Column("boot", sa.String(length=32), nullable=True),
        sa.Column("connection", sa.BigInteger(), nullable=True),
        sa.Column("reported_generation", sa.BigInteger(), nullable=False),
        sa.Column("outbox_n", sa.BigInteger(), nullable=True),
        sa.Column("profile", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("profile_digest", sa.String(length=71), nullable=True),
        sa.Column("agent_version", sa.String(length=64), nullable=True),
        sa.Column("arch", sa.String(length=64), nullable=True),
        sa.Column("os", sa.String(length=128), nullable=True),
        sa.Column("cpu_model", sa.String(length=256), nullable=True),
        sa.Column("cpu_count", sa.Integer(), nullable=True),
        sa.Column("memory_bytes", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("device", name=op.f("pk_devices")),
    )
    op.create_table(
        "device_labels",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("key", sa.String(length=63), nullable=False),
        sa.Column("value", sa.String(length=63), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name=op.f("fk_device_labels_device_devices")),
        sa.PrimaryKeyConstraint("device", "key", name=op.f("pk_device_labels")),
    )
    op.create_table(
        "boots",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("boot", sa.String(length=32), nullable=False),
        sa.Column("first_sent_at_ns", sa.BigInteger(), nullable=True),
        sa.Column("first_online_ns", sa.BigInteger(), nullable=True),
        sa.Column("committed_seq", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name=op.f("fk_boots_device_devices")),
        sa.PrimaryKeyConstraint("device", "boot", name=op.f("pk_boots")),
    )


def _revisions() -> None:
    op.create_table(
        "revisions",
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("manifest", sa.JSON(), nullable=False),
        sa.Column("manifest_digest", sa.String(length=71), nullable=False),
        sa.Column("phase", sa.String(length=32), nullable=False),
        sa.Column("exit_code", sa.Integer(), nullable=True),
        sa.Column("changed", sa.Boolean(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("revision", name=op.f("pk_revisions")),
    )
    op.create_table(
        "events",
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("stage", sa.String(length=32), nullable=False),
        sa.Column("key", sa.String(length=256), nullable=False),
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("at_ns", sa.BigInteger(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("done", sa.Float(), nullable=True),
        sa.Column("total", sa.Float(), nullable=True),
        sa.Column("unit", sa.String(length=32), nullable=True),
        sa.ForeignKeyConstraint(["revision"], ["revisions.revision"], name=op.f("fk_events_revision_revisions")),
        sa.PrimaryKeyConstraint("revision", "stage", "key", name=op.f("pk_events")),
    )
    op.create_index(op.f("ix_events_revision_id"), "events", ["revision", "id"], unique=True)


def _artifacts() -> None:
    op.create_table(
        "artifacts",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("variant", sa.String(length=128), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("document_bytes", sa.BigInteger(), nullable=False),
        sa.Column("total_bytes", sa.BigInteger(), nullable=False),
        sa.Column("created_at_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_artifacts")),
    )
    op.create_table(
        "builds",
        sa.Column("key", sa.String(length=71), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("variant", sa.String(length=128), nullable=False),
        sa.Column("artifact", sa.String(length=71), nullable=True),
        sa.Column("verdict", sa.String(length=32), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("duration_s", sa.Float(), nullable=False),
        sa.Column("built_at_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["artifact"], ["artifacts.digest"], name=op.f("fk_builds_artifact_artifacts")),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_builds")),
    )
    op.create_table(
        "releases",
        sa.Column("digest", sa.String(length=71), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("created_at_ns", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("digest", name=op.f("pk_releases")),
    )


def _desired() -> None:
    op.create_table(
        "desired",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("issued_at_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name=op.f("fk_desired_device_devices")),
        sa.ForeignKeyConstraint(["revision"], ["revisions.revision"], name=op.f("fk_desired_revision_revisions")),
        sa.PrimaryKeyConstraint("device", "generation", name=op.f("pk_desired")),
    )
    op.create_table(
        "desired_models",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("release", sa.String(length=71), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("issued_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("choose", sa.String(length=32), nullable=False),
        sa.Column("first_variant", sa.String(length=128), nullable=False),
        sa.Column("limit_p50_ms", sa.Float(), nullable=True),
        sa.Column("limit_p95_ms", sa.Float(), nullable=True),
        sa.Column("limit_p99_ms", sa.Float(), nullable=True),
        sa.Column("limit_peak_bytes", sa.BigInteger(), nullable=True),
        sa.Column("limit_per_inference_mj", sa.Float(), nullable=True),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name=op.f("fk_desired_models_device_devices")),
        sa.ForeignKeyConstraint(["release"], ["releases.digest"], name=op.f("fk_desired_models_release_releases")),
        sa.PrimaryKeyConstraint("device", "model", name=op.f("pk_desired_models")),
    )


def _reports() -> None:
    op.create_table(
        "reports",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("boot", sa.String(length=32), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(length=32), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=True),
        sa.Column("sent_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("received_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.JSON(none_as_null=True), nullable=True),
        sa.ForeignKeyConstraint(
            ["device", "boot"], ["boots.device", "boots.boot"], name=op.f("fk_reports_device_boot_boots")
        ),
        sa.PrimaryKeyConstraint("device", "boot", "seq", name=op.f("pk_reports")),
    )
    op.create_index(
        op.f("ix_reports_device_kind_model_generation"),
        "reports",
        ["device", "kind", "model", "generation"],
        unique=False,
    )
    op.create_table(
        "device_models",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("state", sa.String(length=32), nullable=False),
        sa.Column("variant", sa.String(length=128), nullable=True),
        sa.Column("artifact", sa.String(length=71), nullable=True),
        sa.Column("release", sa.String(length=71), nullable=True),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("tried", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("updated_at_ns", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(["device"], ["devices.device"], name=op.f("fk_device_models_device_devices")),
        sa.PrimaryKeyConstraint("device", "model", name=op.f("pk_device_models")),
    )


def _evidence() -> None:
    op.create_table(
        "evidence",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("boot", sa.String(length=32), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("variant", sa.String(length=128), nullable=False),
        sa.Column("artifact", sa.String(length=71), nullable=False),
        sa.Column("release", sa.String(length=71), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("verdict", sa.String(length=32), nullable=False),
        sa.Column("gate", sa.String(length=32), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("level", sa.String(length=32), nullable=False),
        sa.Column("started_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("received_at_ns", sa.BigInteger(), nullable=False),
        sa.Column("duration_s", sa.Float(), nullable=False),
        sa.Column("parity_verdict", sa.String(length=32), nullable=True),
        sa.Column("parity_failed_check", sa.String(length=32), nullable=True),
        sa.Column("parity_reason", sa.Text(), nullable=True),
        sa.Column("parity_agreement", sa.Float(), nullable=True),
        sa.Column("parity_worst_sqnr_db", sa.Float(), nullable=True),
        sa.Column("parity_samples_n", sa.BigInteger(), nullable=True),
        sa.Column("device_parity_verdict", sa.String(length=32), nullable=True),
        sa.Column("device_parity_failed_check", sa.String(length=32), nullable=True),
        sa.Column("device_parity_worst_sqnr_db", sa.Float(), nullable=True),
        sa.Column("metric_kind", sa.String(length=32), nullable=True),
        sa.Column("metric_reference", sa.Float(), nullable=True),
        sa.Column("metric_measured", sa.Float(), nullable=True),
        sa.Column("metric_n", sa.BigInteger(), nullable=True),
        sa.Column("latency_verdict", sa.String(length=32), nullable=True),
        sa.Column("latency_scenario", sa.String(length=32), nullable=True),
        sa.Column("latency_n", sa.BigInteger(), nullable=True),
        sa.Column("latency_n_eff", sa.Float(), nullable=True),
        sa.Column("p50_ms", sa.Float(), nullable=True),
        sa.Column("p50_ci95_low_ms", sa.Float(), nullable=True),
        sa.Column("p50_ci95_high_ms", sa.Float(), nullable=True),
        sa.Column("p95_ms", sa.Float(), nullable=True),
        sa.Column("p95_ci95_low_ms", sa.Float(), nullable=True),
        sa.Column("p95_ci95_high_ms", sa.Float(), nullable=True),
        sa.Column("p99_ms", sa.Float(), nullable=True),
        sa.Column("p99_ci95_low_ms", sa.Float(), nullable=True),
        sa.Column("p99_ci95_high_ms", sa.Float(), nullable=True),
        sa.Column("load_ms", sa.Float(), nullable=True),
        sa.Column("first_ms", sa.Float(), nullable=True),
        sa.Column("peak_bytes", sa.BigInteger(), nullable=True),
        sa.Column("baseline_bytes", sa.BigInteger(), nullable=True),
        sa.Column("pss_bytes", sa.BigInteger(), nullable=True),
        sa.Column("energy_status", sa.String(length=32), nullable=True),
        sa.Column("energy_reason", sa.Text(), nullable=True),
        sa.Column("per_inference_mj", sa.Float(), nullable=True),
        sa.Column("accelerated_share", sa.Float(), nullable=True),
        sa.Column("conditions", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.ForeignKeyConstraint(
            ["device", "boot", "seq"],
            ["reports.device", "reports.boot", "reports.seq"],
            name=op.f("fk_evidence_device_boot_seq_reports"),
        ),
        sa.PrimaryKeyConstraint("device", "boot", "seq", name=op.f("pk_evidence")),
    )
    op.create_index(
        op.f("ix_evidence_device_model_release_artifact"),
        "evidence",
        ["device", "model", "release", "artifact"],
        unique=False,
    )
    op.create_index(op.f("ix_evidence_received_at_ns"), "evidence", ["received_at_ns"], unique=False)
