CREATE VIEW fleet_revisions AS
SELECT
    r.revision,
    r.phase,
    r.exit_code,
    r.changed,
    r.reason,
    r.created_at_ns,
    r.manifest_digest,
    r.manifest,
    r.plan
FROM revisions AS r
