CREATE VIEW fleet_models AS
SELECT
    w.device,
    w.model,
    CASE WHEN m.device IS NULL THEN 'pending' ELSE m.state END AS state,
    m.variant,
    m.artifact,
    w.release,
    w.generation,
    w.choose,
    w.first_variant,
    w.limit_p50_ms,
    w.limit_p95_ms,
    w.limit_p99_ms,
    w.limit_peak_bytes,
    w.limit_per_inference_mj,
    w.limit_scenario,
    w.limit_if_unmeasured,
    m.reason,
    w.issued_at_ns,
    m.updated_at_ns
FROM desired_models AS w
LEFT JOIN device_models AS m ON m.device = w.device AND m.model = w.model AND m.release = w.release
