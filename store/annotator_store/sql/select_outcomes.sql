-- Name the outcome that counts of every call.
-- Columns: key, episode, declined, recorded_at, id; digests as hex.
SELECT
    replace(key::VARCHAR, '-', ''),
    replace(episode::VARCHAR, '-', ''),
    declined,
    recorded_at,
    replace(id::VARCHAR, '-', '')
FROM outcomes
ORDER BY key;
