-- severity: error
-- meaning: the persistent rows are the same on every frame of an episode
SELECT
    episode_index,
    "timestamp",
    format('another list from here on, of {} rows; the first frame has {}', rows_here, rows_at_start) AS detail
FROM persistent_changes
