-- title: Fallback in use
-- severity: info
-- description: The first variant of the chain did not qualify on this device; another one serves.
SELECT
    m.device,
    m.model,
    m.variant || ' serves instead of ' || m.first_variant
        || COALESCE(' (' || e.verdict || COALESCE(': ' || e.reason, '') || ')', '') AS detail,
    NULL AS value
FROM fleet_models AS m
LEFT JOIN fleet_latest_evidence AS e
    ON e.device = m.device AND e.model = m.model AND e.release = m.release AND e.variant = m.first_variant
WHERE m.state = 'active' AND m.choose = 'first' AND m.variant <> m.first_variant
ORDER BY m.device, m.model
