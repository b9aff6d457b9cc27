-- Temperatures (°C) and clocks (MHz) around the newest latency run of each variant, hottest first, and what slowed it down.
SELECT
    device, model, variant, throttled, hottest_start_c, hottest_end_c, clock_start_mhz, clock_end_mhz, thermal_reason
FROM fleet_latest_evidence
WHERE throttled IS NOT NULL
ORDER BY throttled DESC, hottest_end_c DESC, device, model, variant
