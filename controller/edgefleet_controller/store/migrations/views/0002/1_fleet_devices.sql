CREATE VIEW fleet_devices AS
SELECT
    d.device,
    d.site,
    d.online,
    d.last_seen_ns,
    COALESCE((SELECT MAX(w.generation) FROM desired AS w WHERE w.device = d.device), 0) AS desired_generation,
    d.reported_generation,
    (SELECT COUNT(*) FROM desired_models AS m WHERE m.device = d.device) AS models_n,
    d.outbox_n,
    d.agent_version,
    d.arch,
    d.os,
    d.cpu_model,
    d.cpu_count,
    d.memory_bytes,
    d.profile_digest,
    d.profile
FROM devices AS d
