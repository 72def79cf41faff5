-- Every episode of every dataset, where it was last seen, and which modules have annotated it.
-- Columns: as below; cameras and modules are sorted. Ordered by (dataset, episode_index).
WITH seen AS (
    SELECT id, episode, recorded_at, run_id, from_json(body, '{
        "dataset": "VARCHAR", "revision": "VARCHAR", "episode_index": "BIGINT", "tasks": ["VARCHAR"],
        "frame_count": "BIGINT", "duration_s": "DOUBLE", "cameras": [{"camera": "VARCHAR"}]
    }') AS e
    FROM events
    WHERE type = 'episode_seen.v1'
), last_at_index AS (
    SELECT DISTINCT ON (e.dataset, e.episode_index) *
    FROM seen
    ORDER BY e.dataset, e.episode_index, recorded_at DESC, id DESC
), sizes AS (
    SELECT DISTINCT ON (body->>'dataset') body->>'dataset' AS dataset, (body->>'dataset_episodes')::BIGINT AS episodes
    FROM events
    WHERE type = 'run_finished.v1'
    ORDER BY body->>'dataset', recorded_at DESC, id DESC
), places AS (
    SELECT last_at_index.*
    FROM last_at_index
    LEFT JOIN sizes ON sizes.dataset = e.dataset
    WHERE e.episode_index < coalesce(sizes.episodes, e.episode_index + 1)
    -- An episode that was seen elsewhere since has moved; one that a single run saw twice is there twice.
    QUALIFY run_id = first_value(run_id) OVER (PARTITION BY e.dataset, episode ORDER BY recorded_at DESC, id DESC)
), done AS (
    SELECT episode, list(module ORDER BY module) AS modules
    FROM current_annotations
    GROUP BY episode
)
SELECT
    replace(places.episode::VARCHAR, '-', '') AS digest,
    e.dataset AS dataset,
    e.episode_index AS episode_index,
    e.tasks AS tasks,
    e.frame_count AS frame_count,
    e.duration_s AS duration_s,
    list_sort(list_transform(e.cameras, lambda c: c.camera)) AS cameras,
    coalesce(done.modules, []) AS modules,
    e.revision AS revision,
    places.recorded_at AS seen_at
FROM places
LEFT JOIN done USING (episode)
ORDER BY dataset, episode_index;
