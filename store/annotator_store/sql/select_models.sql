-- Find how these models were described.
-- Columns: id (hex), body.
SELECT replace(id::VARCHAR, '-', ''), body
FROM events
WHERE type = 'model_described.v1' AND list_contains($models, body->>'model')
ORDER BY recorded_at, id;
