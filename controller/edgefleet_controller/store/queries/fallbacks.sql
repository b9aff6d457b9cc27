-- Variants that did not qualify under the wished release, with the gate each missed and why.
SELECT e.device, e.model, m.variant AS serves, e.variant AS missed, e.verdict, e.gate, e.reason
FROM fleet_latest_evidence AS e
JOIN fleet_models AS m ON m.device = e.device AND m.model = e.model AND m.release = e.release
WHERE e.verdict <> 'qualified'
ORDER BY e.device, e.model, e.variant
