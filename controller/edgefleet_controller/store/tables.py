"""The store's tables. Every quantity has its unit in its column's name; times are nanoseconds since 1970 (UTC).

Tables are ours to change; what people query are the `fleet_*` views (docs/store.md).
"""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

_NAME = String(63)
_DIGEST = String(71)
_VARIANT = String(128)
_WORD = String(32)
_BOOT = String(32)

revisions = Table(
    "revisions",
    metadata,
    Column("revision", Integer, primary_key=True),
    Column("created_at_ns", BigInteger, nullable=False),
    Column("manifest", JSON, nullable=False),
    Column("manifest_digest", _DIGEST, nullable=False),
    Column("phase", _WORD, nullable=False),
    Column("exit_code", Integer),
    Column("changed", Boolean, nullable=False),
    Column("reason", Text),
    Column("plan", JSON, nullable=False),
)

events = Table(
    "events",
    metadata,
    Column("revision", ForeignKey("revisions.revision"), primary_key=True),
    Column("stage", _WORD, primary_key=True),
    Column("key", String(256), primary_key=True),
    Column("id", BigInteger, nullable=False),
    Column("at_ns", BigInteger, nullable=False),
    Column("text", Text, nullable=False),
    Column("done", Float),
    Column("total", Float),
    Column("unit", _WORD),
    Index(None, "revision", "id", unique=True),
)

devices = Table(
    "devices",
    metadata,
    Column("device", _NAME, primary_key=True),
    Column("site", _NAME, nullable=False),
    Column("online", Boolean, nullable=False),
    Column("last_seen_ns", BigInteger),
    Column("boot", _BOOT),
    Column("connection", BigInteger),
    Column("reported_generation", BigInteger, nullable=False),
    Column("outbox_n", BigInteger),
    Column("profile", JSON(none_as_null=True)),
    Column("profile_digest", _DIGEST),
    Column("agent_version", String(64)),
    Column("arch", String(64)),
    Column("os", String(128)),
    Column("cpu_model", String(256)),
    Column("cpu_count", Integer),
    Column("memory_bytes", BigInteger),
)

device_labels = Table(
    "device_labels",
    metadata,
    Column("device", ForeignKey("devices.device"), primary_key=True),
    Column("key", _NAME, primary_key=True),
    Column("value", _NAME, nullable=False),
)

boots = Table(
    "boots",
    metadata,
    Column("device", ForeignKey("devices.device"), primary_key=True),
    Column("boot", _BOOT, primary_key=True),
    # The lowest `sent_at_ns` of its reports: what orders the boots of one device.
    Column("first_sent_at_ns", BigInteger),
    Column("first_online_ns", BigInteger),
    # All reports of this boot up to this number are committed.
    Column("committed_seq", BigInteger, nullable=False),
)

artifacts = Table(
    "artifacts",
    metadata,
    Column("digest", _DIGEST, primary_key=True),
    Column("model", _NAME, nullable=False),
    Column("variant", _VARIANT, nullable=False),
    Column("document", JSON, nullable=False),
    Column("document_bytes", BigInteger, nullable=False),
    Column("total_bytes", BigInteger, nullable=False),
    Column("created_at_ns", BigInteger, nullable=False),
    Column("samples_level", _WORD),
    Column("host_check_level", _WORD),
    Column("host_check_ran_as", _VARIANT),
    Column("host_check_verdict", _WORD),
    Column("host_check_samples_n", BigInteger),
    Column("host_check_agreement", Float),
    Column("host_check_worst_sqnr_db", Float),
    Column("host_check_reason", Text),
    Column("coverage_source", _WORD),
    Column("coverage_accelerator_n", BigInteger),
    Column("coverage_cpu_n", BigInteger),
    Column("coverage_unsupported_n", BigInteger),
    Column("coverage_first_blocking", Text),
)

builds = Table(
    "builds",
    metadata,
    Column("key", _DIGEST, primary_key=True),
    Column("model", _NAME, nullable=False),
    Column("variant", _VARIANT, nullable=False),
    Column("artifact", ForeignKey("artifacts.digest")),
    Column("verdict", _WORD, nullable=False),
    Column("reason", Text),
    Column("duration_s", Float, nullable=False),
    Column("built_at_ns", BigInteger, nullable=False),
)

releases = Table(
    "releases",
    metadata,
    Column("digest", _DIGEST, primary_key=True),
    Column("model", _NAME, nullable=False),
    Column("document", JSON, nullable=False),
    Column("created_at_ns", BigInteger, nullable=False),
)

desired = Table(
    "desired",
    metadata,
    Column("device", ForeignKey("devices.device"), primary_key=True),
    Column("generation", BigInteger, primary_key=True),
    Column("revision", ForeignKey("revisions.revision"), nullable=False),
    Column("document", JSON, nullable=False),
    Column("issued_at_ns", BigInteger, nullable=False),
)

# The models of each device's newest desired state, one row each, with their limits.
desired_models = Table(
    "desired_models",
    metadata,
    Column("device", ForeignKey("devices.device"), primary_key=True),
    Column("model", _NAME, primary_key=True),
    Column("release", ForeignKey("releases.digest"), nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("issued_at_ns", BigInteger, nullable=False),
    Column("choose", _WORD, nullable=False),
    Column("first_variant", _VARIANT, nullable=False),
    Column("limit_p50_ms", Float),
    Column("limit_p95_ms", Float),
    Column("limit_p99_ms", Float),
    Column("limit_peak_bytes", BigInteger),
    Column("limit_per_inference_mj", Float),
    Column("limit_scenario", _WORD),
    Column("limit_if_unmeasured", _WORD),
)

reports = Table(
    "reports",
    metadata,
    Column("device", _NAME, primary_key=True),
    Column("boot", _BOOT, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("kind", _WORD, nullable=False),
    Column("model", _NAME),
    Column("generation", BigInteger),
    Column("sent_at_ns", BigInteger, nullable=False),
    Column("received_at_ns", BigInteger, nullable=False),
    # None for evidence, whose body stands in `evidence`: large bodies are stored once.
    Column("body", JSON(none_as_null=True)),
    ForeignKeyConstraint(["device", "boot"], ["boots.device", "boots.boot"]),
    Index(None, "device", "kind", "model", "generation"),
)

evidence = Table(
    "evidence",
    metadata,
    Column("device", _NAME, primary_key=True),
    Column("boot", _BOOT, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("model", _NAME, nullable=False),
    Column("variant", _VARIANT, nullable=False),
    Column("artifact", _DIGEST, nullable=False),
    Column("release", _DIGEST, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("verdict", _WORD, nullable=False),
    Column("gate", _WORD),
    Column("reason", Text),
    Column("level", _WORD, nullable=False),
    Column("started_at_ns", BigInteger, nullable=False),
    Column("received_at_ns", BigInteger, nullable=False),
    Column("duration_s", Float, nullable=False),
    Column("parity_verdict", _WORD),
    Column("parity_failed_check", _WORD),
    Column("parity_reason", Text),
    Column("parity_agreement", Float),
    Column("parity_worst_sqnr_db", Float),
    Column("parity_samples_n", BigInteger),
    Column("device_parity_verdict", _WORD),
    Column("device_parity_failed_check", _WORD),
    Column("device_parity_worst_sqnr_db", Float),
    Column("metric_kind", _WORD),
    Column("metric_reference", Float),
    Column("metric_measured", Float),
    Column("metric_n", BigInteger),
    Column("latency_verdict", _WORD),
    Column("latency_reason", Text),
    Column("latency_scenario", _WORD),
    Column("latency_n", BigInteger),
    Column("latency_n_eff", Float),
    Column("p50_ms", Float),
    Column("p50_ci95_low_ms", Float),
    Column("p50_ci95_high_ms", Float),
    Column("p95_ms", Float),
    Column("p95_ci95_low_ms", Float),
    Column("p95_ci95_high_ms", Float),
    Column("p99_ms", Float),
    Column("p99_ci95_low_ms", Float),
    Column("p99_ci95_high_ms", Float),
    Column("undisturbed_n", BigInteger),
    Column("undisturbed_p50_ms", Float),
    Column("undisturbed_p95_ms", Float),
    Column("undisturbed_p99_ms", Float),
    Column("max_ms", Float),
    Column("preempted_n", BigInteger),
    Column("samples_per_query", BigInteger),
    Column("offered_hz", Float),
    Column("service_p50_ms", Float),
    Column("service_p99_ms", Float),
    Column("throughput_hz", Float),
    Column("throughput_ci95_low_hz", Float),
    Column("throughput_ci95_high_hz", Float),
    Column("top_operator", _VARIANT),
    Column("top_operator_share", Float),
    Column("load_ms", Float),
    Column("first_ms", Float),
    Column("peak_bytes", BigInteger),
    Column("baseline_bytes", BigInteger),
    Column("pss_bytes", BigInteger),
    Column("energy_status", _WORD),
    Column("energy_reason", Text),
    Column("per_inference_mj", Float),
    Column("per_inference_ci95_low_mj", Float),
    Column("per_inference_ci95_high_mj", Float),
    Column("gross_per_inference_mj", Float),
    Column("gross_per_inference_ci95_low_mj", Float),
    Column("gross_per_inference_ci95_high_mj", Float),
    Column("gross_j", Float),
    Column("net_j", Float),
    Column("load_w", Float),
    Column("idle_before_w", Float),
    Column("idle_after_w", Float),
    Column("energy_n", BigInteger),
    Column("energy_sensor", String(256)),
    Column("energy_scope", _VARIANT),
    Column("energy_kind", _WORD),
    Column("energy_proven_on", Text),
    Column("throttled", Boolean),
    Column("thermal_reason", Text),
    Column("hottest_start_c", Float),
    Column("hottest_end_c", Float),
    Column("clock_start_mhz", Float),
    Column("clock_end_mhz", Float),
    Column("accelerated_share", Float),
    Column("accelerated_time_share", Float),
    Column("accelerated_time_reason", Text),
    Column("placement_source", _VARIANT),
    Column("conditions", JSON(none_as_null=True)),
    Column("body", JSON, nullable=False),
    ForeignKeyConstraint(["device", "boot", "seq"], ["reports.device", "reports.boot", "reports.seq"]),
    Index(None, "device", "model", "release", "artifact"),
    Index(None, "received_at_ns"),
)

device_models = Table(
    "device_models",
    metadata,
    Column("device", ForeignKey("devices.device"), primary_key=True),
    Column("model", _NAME, primary_key=True),
    Column("state", _WORD, nullable=False),
    Column("variant", _VARIANT),
    Column("artifact", _DIGEST),
    Column("release", _DIGEST),
    Column("generation", BigInteger, nullable=False),
    Column("tried", JSON, nullable=False),
    Column("reason", Text),
    Column("updated_at_ns", BigInteger, nullable=False),
)
