-- Keep for each key the outcome that counts: an answer before a refusal, then the earliest, then the smallest id.
-- Columns: of `batch`, the Arrow table registered for the insert.
INSERT INTO outcomes
SELECT DISTINCT ON (key) key, episode, type = 'call_declined.v1' AS declined, recorded_at, id
FROM batch
WHERE type IN ('call_answered.v1', 'call_declined.v1')
ORDER BY key, declined, recorded_at, id
ON CONFLICT (key) DO UPDATE
SET episode = excluded.episode,
    declined = excluded.declined,
    recorded_at = excluded.recorded_at,
    id = excluded.id
WHERE (excluded.declined, excluded.recorded_at, excluded.id) < (outcomes.declined, outcomes.recorded_at, outcomes.id);
