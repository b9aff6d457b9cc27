-- What was built, how big it is (bytes) and how long it took (s), newest first, and how far it was proven here; and what could not be built, and why.
SELECT
    model, variant, verdict, total_bytes, duration_s, built_at_ns, reason, host_check_level, coverage_first_blocking
FROM fleet_builds
ORDER BY built_at_ns DESC, model, variant
