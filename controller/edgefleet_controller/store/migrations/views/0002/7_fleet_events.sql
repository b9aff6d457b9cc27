CREATE VIEW fleet_events AS
SELECT
    e.revision,
    e.id,
    e.at_ns,
    e.stage,
    e.key,
    e.text,
    e.done,
    e.total,
    e.unit
FROM events AS e
