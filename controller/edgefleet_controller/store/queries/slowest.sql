-- Latency (ms) of what serves, slowest P99 first; `limit_used` is the measured share of the tightest latency limit.
SELECT
    e.device, e.model, e.variant, e.latency_scenario AS scenario, e.p50_ms, e.p95_ms, e.p99_ms,
    NULLIF(
        MAX(
            COALESCE(e.p50_ms / m.limit_p50_ms, 0.0),
            COALESCE(e.p95_ms / m.limit_p95_ms, 0.0),
            COALESCE(e.p99_ms / m.limit_p99_ms, 0.0)
        ),
        0.0
    ) AS limit_used,
    e.latency_verdict AS verdict,
    e.top_operator
FROM fleet_latest_evidence AS e
JOIN fleet_models AS m
    ON m.device = e.device AND m.model = e.model AND m.release = e.release AND m.variant = e.variant
WHERE m.state = 'active' AND e.p99_ms IS NOT NULL
ORDER BY e.p99_ms DESC, e.device, e.model
