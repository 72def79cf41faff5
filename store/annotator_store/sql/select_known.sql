-- Find the outcome that counts of every call made for one episode.
-- Columns: id (hex), body; one row per key.
SELECT replace(outcomes.id::VARCHAR, '-', ''), events.body
FROM outcomes
JOIN events USING (id)
WHERE outcomes.episode = $episode::UUID
ORDER BY outcomes.key;
