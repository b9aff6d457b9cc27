-- What was tried and did not qualify, newest first.
SELECT device, model, variant, verdict, gate, reason, started_at_ns
FROM fleet_evidence
WHERE verdict <> 'qualified'
ORDER BY received_at_ns DESC
