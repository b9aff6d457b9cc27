-- What qualified with a warning: limits that hold only just, weak parity, figures that could not be had.
SELECT e.device, e.model, e.variant, w.value AS warning, e.started_at_ns
FROM fleet_latest_evidence AS e, json_each(e.body, '$.warnings') AS w
WHERE e.verdict = 'qualified'
ORDER BY e.device, e.model, e.variant, w.key
