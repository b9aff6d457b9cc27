-- title: Device offline
-- severity: warning
-- unit: s
-- threshold: 300
-- description: A device that should serve a model has not been seen for a while. Is it powered, and the agent running?
SELECT
    d.device,
    NULL AS model,
    CASE
        WHEN d.last_seen_ns IS NULL THEN 'never seen'
        WHEN d.online THEN 'silent, though never signed off'
        ELSE 'signed off'
    END || '; ' || d.models_n || ' model(s) wished there' AS detail,
    (:now_ns - d.last_seen_ns) / 1e9 AS value
FROM fleet_devices AS d
WHERE d.models_n > 0 AND COALESCE((:now_ns - d.last_seen_ns) / 1e9 > :threshold, TRUE)
ORDER BY d.device
