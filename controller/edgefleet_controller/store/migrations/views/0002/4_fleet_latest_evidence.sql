CREATE VIEW fleet_latest_evidence AS
SELECT
    r.device,
    r.boot,
    r.seq,
    r.model,
    r.variant,
    r.artifact,
    r.release,
    r.generation,
    r.verdict,
    r.gate,
    r.reason,
    r.level,
    r.started_at_ns,
    r.received_at_ns,
    r.duration_s,
    r.parity_verdict,
    r.parity_failed_check,
    r.parity_reason,
    r.parity_agreement,
    r.parity_worst_sqnr_db,
    r.parity_samples_n,
    r.device_parity_verdict,
    r.device_parity_failed_check,
    r.device_parity_worst_sqnr_db,
    r.metric_kind,
    r.metric_reference,
    r.metric_measured,
    r.metric_n,
    r.latency_verdict,
    r.latency_scenario,
    r.latency_n,
    r.latency_n_eff,
    r.p50_ms,
    r.p50_ci95_low_ms,
    r.p50_ci95_high_ms,
    r.p95_ms,
    r.p95_ci95_low_ms,
    r.p95_ci95_high_ms,
    r.p99_ms,
    r.p99_ci95_low_ms,
    r.p99_ci95_high_ms,
    r.load_ms,
    r.first_ms,
    r.peak_bytes,
    r.baseline_bytes,
    r.pss_bytes,
    r.energy_status,
    r.energy_reason,
    r.per_inference_mj,
    r.accelerated_share,
    r.conditions,
    r.body
FROM (
    SELECT
        e.*,
        ROW_NUMBER() OVER (
            PARTITION BY e.device, e.model, e.variant
            ORDER BY e.generation DESC, b.first_sent_at_ns DESC, e.boot DESC, e.seq DESC
        ) AS place
    FROM evidence AS e
    JOIN boots AS b ON b.device = e.device AND b.boot = e.boot
) AS r
WHERE r.place = 1
