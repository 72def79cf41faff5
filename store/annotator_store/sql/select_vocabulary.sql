-- Find the vocabulary of a dataset: the last one that was found or edited.
-- Columns: id (hex), body; at most one row.
SELECT replace(id::VARCHAR, '-', ''), body
FROM events
WHERE type IN ('vocabulary_discovered.v1', 'vocabulary_edited.v1') AND body->>'dataset' = $dataset
ORDER BY recorded_at DESC, id DESC
LIMIT 1;
