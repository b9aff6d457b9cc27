-- Parity of each variant on each device: the newest evidence, worst SQNR (dB) first.
SELECT
    device, model, variant, parity_verdict, parity_agreement, parity_worst_sqnr_db, parity_samples_n,
    device_parity_verdict, device_parity_worst_sqnr_db, metric_kind, metric_reference, metric_measured, metric_n
FROM fleet_latest_evidence
WHERE parity_verdict IS NOT NULL
ORDER BY parity_worst_sqnr_db IS NULL, parity_worst_sqnr_db, device, model, variant
