-- Read these events.
-- Columns: id (hex), body.
SELECT replace(id::VARCHAR, '-', ''), body
FROM events
WHERE id IN (SELECT unnest($ids)::UUID)
ORDER BY id;
