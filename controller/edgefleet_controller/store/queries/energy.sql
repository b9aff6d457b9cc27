-- Energy per inference (mJ, net of the idle draw) of every variant on every device: by model, least first; not measured last, and why.
SELECT
    model, device, variant, verdict, energy_status, per_inference_mj, per_inference_ci95_low_mj,
    per_inference_ci95_high_mj, gross_per_inference_mj, load_w, energy_sensor, energy_scope, energy_reason
FROM fleet_latest_evidence
WHERE energy_status IS NOT NULL
ORDER BY model, per_inference_mj IS NULL, per_inference_mj, device, variant
