-- Find which episode was last seen at every index of every dataset.
-- Columns: episode (hex), dataset, episode_index.
WITH seen AS (
    SELECT id, episode, recorded_at, from_json(body, '{"dataset":"VARCHAR","episode_index":"BIGINT"}') AS e
    FROM events
    WHERE type = 'episode_seen.v1'
)
SELECT DISTINCT ON (e.dataset, e.episode_index) replace(episode::VARCHAR, '-', ''), e.dataset, e.episode_index
FROM seen
ORDER BY e.dataset, e.episode_index, recorded_at DESC, id DESC;
