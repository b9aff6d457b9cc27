-- Parity output by output: the newest evidence, outputs that failed a check first, then worst SQNR (dB) first.
SELECT
    e.device, e.model, e.variant,
    json_extract(o.value, '$.name') AS output,
    json_extract(o.value, '$.failed_check') AS failed_check,
    json_extract(o.value, '$.worst_sqnr_db') AS worst_sqnr_db,
    json_extract(o.value, '$.median_sqnr_db') AS median_sqnr_db,
    json_extract(o.value, '$.tolerance_sqnr_db') AS tolerance_sqnr_db,
    json_extract(o.value, '$.reason') AS reason
FROM fleet_latest_evidence AS e, json_each(e.body, '$.parity.outputs') AS o
ORDER BY failed_check IS NULL, worst_sqnr_db IS NULL, worst_sqnr_db, e.device, e.model, e.variant, o.key
