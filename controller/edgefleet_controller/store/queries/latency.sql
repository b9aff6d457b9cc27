-- Latency and memory of every variant on every device, from the newest trial.
SELECT
    device, model, variant, verdict, p50_ms, p95_ms, p99_ms, latency_n, latency_verdict, peak_bytes, latency_scenario,
    throughput_hz
FROM fleet_latest_evidence
WHERE latency_n IS NOT NULL
ORDER BY model, device, p50_ms
