-- Read every note that a shard was written.
-- Columns: id (hex), body.
SELECT replace(id::VARCHAR, '-', ''), body
FROM events
WHERE type = 'shard_written.v1'
ORDER BY recorded_at, id;
