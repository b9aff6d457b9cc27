CREATE VIEW fleet_builds AS
SELECT
    b.model,
    b.variant,
    CASE WHEN b.artifact IS NULL THEN b.verdict ELSE 'built' END AS verdict,
    b.reason,
    b.artifact,
    a.total_bytes,
    b.duration_s,
    b.built_at_ns,
    b.key
FROM builds AS b
LEFT JOIN artifacts AS a ON a.digest = b.artifact
