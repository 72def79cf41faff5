-- Find the vocabulary that was first found by following a recipe, in whichever dataset.
-- Columns: id (hex), body; at most one row.
SELECT replace(id::VARCHAR, '-', ''), body
FROM events
WHERE type = 'vocabulary_discovered.v1' AND body->>'recipe' = $recipe
ORDER BY recorded_at, id
LIMIT 1;
