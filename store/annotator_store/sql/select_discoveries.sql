-- Find every vocabulary that was found for a dataset.
-- Columns: id (hex), body.
SELECT replace(id::VARCHAR, '-', ''), body
FROM events
WHERE type = 'vocabulary_discovered.v1' AND body->>'dataset' = $dataset
ORDER BY recorded_at, id;
