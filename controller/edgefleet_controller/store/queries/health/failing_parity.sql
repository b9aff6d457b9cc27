-- title: Model is not faithful
-- severity: critical
-- unit: dB
-- description: The newest trial of a wished release on this device failed parity: its answers differ from the source. A warning where another variant of the release serves.
SELECT
    e.device,
    e.model,
    e.variant || ' failed ' || e.gate || COALESCE(' at ' || e.parity_failed_check, ' at ' || e.device_parity_failed_check, '')
        || COALESCE(': ' || e.reason, '') AS detail,
    COALESCE(e.parity_worst_sqnr_db, e.device_parity_worst_sqnr_db) AS value,
    CASE WHEN m.state = 'active' AND m.variant <> e.variant THEN 'warning' END AS severity
FROM fleet_latest_evidence AS e
JOIN fleet_models AS m ON m.device = e.device AND m.model = e.model AND m.release = e.release
WHERE e.gate IN ('parity', 'device-parity')
ORDER BY e.device, e.model, e.variant
