-- Find the episodes of a dataset of which some footage could not be read when they were last seen.
-- Columns: episode (hex), episode_index, unreadable (a JSON object: camera → why).
WITH last_at_index AS (
    SELECT DISTINCT ON ((body->>'episode_index')::BIGINT)
        episode, (body->>'episode_index')::BIGINT AS episode_index, body->'unreadable' AS unreadable
    FROM events
    WHERE type = 'episode_seen.v1' AND body->>'dataset' = $dataset
    ORDER BY (body->>'episode_index')::BIGINT, recorded_at DESC, id DESC
)
SELECT replace(episode::VARCHAR, '-', ''), episode_index, unreadable::VARCHAR
FROM last_at_index
WHERE unreadable IS NOT NULL AND unreadable::VARCHAR <> '{}'
ORDER BY episode_index;
