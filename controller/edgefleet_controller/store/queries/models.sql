-- What serves where.
SELECT device, model, state, variant, reason, updated_at_ns FROM fleet_models ORDER BY device, model
