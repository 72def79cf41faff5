-- Read the answer that counts of each of these calls.
-- Columns: id (hex), body; one row per key.
SELECT replace(outcomes.id::VARCHAR, '-', ''), events.body
FROM outcomes
JOIN events USING (id)
WHERE outcomes.key IN (SELECT unnest($keys)::UUID) AND NOT outcomes.declined
ORDER BY outcomes.key;
