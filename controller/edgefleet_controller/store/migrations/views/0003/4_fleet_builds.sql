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
    b.key,
    a.samples_level,
    a.host_check_level,
    a.host_check_ran_as,
    a.host_check_verdict,
    a.host_check_samples_n,
    a.host_check_agreement,
    a.host_check_worst_sqnr_db,
    a.host_check_reason,
    a.coverage_source,
    a.coverage_accelerator_n,
    a.coverage_cpu_n,
    a.coverage_unsupported_n,
    a.coverage_first_blocking
FROM builds AS b
LEFT JOIN artifacts AS a ON a.digest = b.artifact
