-- Read every event.
-- Columns: id (hex), body.
SELECT replace(id::VARCHAR, '-', ''), body
FROM events
ORDER BY id;
