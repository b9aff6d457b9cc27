-- title: Over budget
-- severity: warning
-- description: The newest trial of a wished release missed its latency, memory or energy limit on this device.
SELECT
    e.device,
    e.model,
    e.variant || ' failed ' || e.gate || COALESCE(': ' || e.reason, '') AS detail,
    CASE e.gate
        WHEN 'latency' THEN CASE
            WHEN e.p50_ms > m.limit_p50_ms THEN e.p50_ms
            WHEN e.p95_ms > m.limit_p95_ms THEN e.p95_ms
            ELSE e.p99_ms
        END
        WHEN 'memory' THEN e.peak_bytes
        ELSE e.per_inference_mj
    END AS value
FROM fleet_latest_evidence AS e
JOIN fleet_models AS m ON m.device = e.device AND m.model = e.model AND m.release = e.release
WHERE e.gate IN ('latency', 'memory', 'energy')
ORDER BY e.device, e.model, e.variant
