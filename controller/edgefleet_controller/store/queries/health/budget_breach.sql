-- title: Over budget
-- severity: warning
-- description: The newest trial of a wished release missed its latency, memory or energy limit on this device.
WITH tried AS (
    SELECT
        e.device,
        e.model,
        e.variant,
        e.gate,
        e.reason,
        e.p50_ms,
        e.p95_ms,
        e.p99_ms,
        e.peak_bytes,
        e.per_inference_mj,
        m.limit_p50_ms,
        m.limit_p95_ms,
        m.limit_p99_ms,
        m.limit_peak_bytes,
        m.limit_per_inference_mj,
        CASE
            WHEN e.gate = 'latency' AND e.p50_ms > m.limit_p50_ms THEN 'p50'
            WHEN e.gate = 'latency' AND e.p95_ms > m.limit_p95_ms THEN 'p95'
            WHEN e.gate = 'latency' AND e.p99_ms > m.limit_p99_ms THEN 'p99'
            WHEN e.gate = 'memory' AND e.peak_bytes > m.limit_peak_bytes THEN 'peak'
            WHEN e.gate = 'energy' AND e.per_inference_mj > m.limit_per_inference_mj THEN e.energy_status
        END AS missed,
        CASE
            WHEN e.gate = 'latency' AND e.latency_verdict <> 'valid'
                THEN ' (run was ' || e.latency_verdict || COALESCE(': ' || e.latency_reason, '') || ')'
            ELSE ''
        END AS doubt
    FROM fleet_latest_evidence AS e
    JOIN fleet_models AS m ON m.device = e.device AND m.model = e.model AND m.release = e.release
    WHERE e.gate IN ('latency', 'memory', 'energy')
)
SELECT
    t.device,
    t.model,
    t.variant || ' failed ' || t.gate || ': ' || CASE t.missed
        WHEN 'p50' THEN printf('p50 %.6g ms > limit %.6g ms', t.p50_ms, t.limit_p50_ms) || t.doubt
        WHEN 'p95' THEN printf('p95 %.6g ms > limit %.6g ms', t.p95_ms, t.limit_p95_ms) || t.doubt
        WHEN 'p99' THEN printf('p99 %.6g ms > limit %.6g ms', t.p99_ms, t.limit_p99_ms) || t.doubt
        WHEN 'peak' THEN
            printf('peak %.6g MiB > limit %.6g MiB', t.peak_bytes / 1048576.0, t.limit_peak_bytes / 1048576.0)
        WHEN 'measured' THEN
            printf('%.6g mJ > limit %.6g mJ per inference', t.per_inference_mj, t.limit_per_inference_mj)
        ELSE COALESCE(t.reason, 'no reason was given')
    END AS detail,
    CASE t.missed
        WHEN 'p50' THEN t.p50_ms
        WHEN 'p95' THEN t.p95_ms
        WHEN 'p99' THEN t.p99_ms
        WHEN 'peak' THEN t.peak_bytes
        WHEN 'measured' THEN t.per_inference_mj
    END AS value,
    CASE t.missed WHEN 'peak' THEN 'bytes' WHEN 'measured' THEN 'mJ' ELSE 'ms' END AS unit
FROM tried AS t
ORDER BY t.device, t.model, t.variant
