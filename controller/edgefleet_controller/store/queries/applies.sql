-- Every apply, newest first: how far it came and why.
SELECT revision, phase, exit_code, changed, reason, created_at_ns
FROM fleet_revisions
ORDER BY revision DESC
