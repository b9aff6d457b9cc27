-- title: Device throttled
-- severity: warning
-- unit: °C
-- description: The device was slowed down while the newest trial of a wished release was timed: cool it, or feed it better. The value is its hottest zone at the end.
SELECT
    e.device,
    e.model,
    e.variant || ' was timed while the device throttled'
        || COALESCE(': ' || e.thermal_reason, ': ' || e.latency_reason, '') AS detail,
    e.hottest_end_c AS value
FROM fleet_latest_evidence AS e
JOIN fleet_models AS m ON m.device = e.device AND m.model = e.model AND m.release = e.release
WHERE e.throttled OR e.latency_verdict = 'throttled'
ORDER BY e.device, e.model, e.variant
