-- Find what each camera of a dataset's episodes was last seen to have recorded.
-- Columns: episode (hex), episode_index, camera, footage (a digest).
WITH seen AS (
    SELECT id, episode, recorded_at, (body->>'episode_index')::BIGINT AS episode_index,
        unnest(from_json(body->'cameras', '[{"camera": "VARCHAR", "footage": "VARCHAR"}]')) AS seen
    FROM events
    WHERE type = 'episode_seen.v1' AND body->>'dataset' = $dataset
)
SELECT DISTINCT ON (episode, episode_index, seen.camera)
    replace(episode::VARCHAR, '-', ''), episode_index, seen.camera, seen.footage
FROM seen
ORDER BY episode, episode_index, seen.camera, recorded_at DESC, id DESC;
