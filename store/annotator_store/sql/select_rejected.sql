-- Find the calls of one episode whose reply did not fit.
-- Columns: key (hex).
SELECT DISTINCT replace(key::VARCHAR, '-', '') AS key
FROM events
WHERE episode = $episode::UUID AND type = 'answer_rejected.v1'
ORDER BY key;
