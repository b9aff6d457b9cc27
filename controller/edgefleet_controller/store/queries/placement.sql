-- Where operators ran, least on the engine asked for first: share of operators and of their time, and which ran elsewhere.
SELECT
    device, model, variant, accelerated_share, accelerated_time_share,
    json_extract(body, '$.placement.nodes') AS nodes,
    json_extract(body, '$.placement.elsewhere') AS elsewhere
FROM fleet_latest_evidence
WHERE accelerated_share IS NOT NULL
ORDER BY accelerated_share, accelerated_time_share, device, model, variant
