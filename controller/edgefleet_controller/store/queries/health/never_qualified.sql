-- title: Never qualified
-- severity: critical
-- unit: s
-- threshold: 600
-- description: A wished release has no evidence on this device that any of its variants qualified.
SELECT
    m.device,
    m.model,
    m.state || COALESCE(': ' || m.reason, '') AS detail,
    (:now_ns - m.issued_at_ns) / 1e9 AS value
FROM fleet_models AS m
WHERE
    (m.state = 'refused' OR (:now_ns - m.issued_at_ns) / 1e9 > :threshold)
    AND NOT EXISTS (
        SELECT 1
        FROM fleet_evidence AS e
        WHERE e.device = m.device AND e.model = m.model AND e.release = m.release AND e.verdict = 'qualified'
    )
ORDER BY m.device, m.model
