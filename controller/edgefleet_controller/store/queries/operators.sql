-- Where time goes inside each variant on each device: operator types with their share of the time, from the newest trial.
SELECT
    e.device, e.model, e.variant,
    json_extract(o.value, '$.operator') AS operator,
    json_extract(o.value, '$.share') AS share,
    json_extract(o.value, '$.calls_n') AS calls_n
FROM fleet_latest_evidence AS e, json_each(e.body, '$.latency.profile.operators') AS o
ORDER BY e.device, e.model, e.variant, o.key
