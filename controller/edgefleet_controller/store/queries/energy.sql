-- Energy per inference (mJ, net of the idle draw, with its 95 % interval) of every variant on every device: by model, least first; not measured last, and why.
SELECT
    model, device, variant,
    energy_status AS status,
    per_inference_mj AS net_mj,
    per_inference_ci95_low_mj AS low_mj,
    per_inference_ci95_high_mj AS high_mj,
    gross_per_inference_mj AS gross_mj,
    energy_sensor AS sensor,
    energy_reason AS reason
FROM fleet_latest_evidence
WHERE energy_status IS NOT NULL
ORDER BY model, per_inference_mj IS NULL, per_inference_mj, device, variant
