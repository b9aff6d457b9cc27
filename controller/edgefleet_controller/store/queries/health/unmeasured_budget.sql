-- title: Energy limit not proven
-- severity: info
-- unit: mJ
-- description: A model serves under a limit on energy that could not be measured on this device. The value is the limit.
SELECT
    e.device,
    e.model,
    e.variant || ' serves, and its energy was ' || CASE e.energy_status WHEN 'modelled' THEN 'only modelled' ELSE 'not measured' END
        || ': limit ' || printf('%.6g', m.limit_per_inference_mj) || ' mJ'
        || COALESCE('; ' || e.energy_reason, '') AS detail,
    m.limit_per_inference_mj AS value
FROM fleet_latest_evidence AS e
JOIN fleet_models AS m
    ON m.device = e.device AND m.model = e.model AND m.release = e.release AND m.variant = e.variant
WHERE
    m.state = 'active'
    AND m.limit_per_inference_mj IS NOT NULL
    AND COALESCE(m.limit_if_unmeasured, 'warn') <> 'ignore'
    AND COALESCE(e.energy_status, 'unmeasured') <> 'measured'
ORDER BY e.device, e.model
