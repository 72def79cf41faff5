-- severity: error
-- meaning: at most one vqa row per time, camera and role
SELECT
    episode_index,
    "timestamp",
    format('{} {} rows on {}', count(*), role, coalesce(camera, 'no camera')) AS detail,
    min(call) AS call
FROM rows
WHERE style = 'vqa'
GROUP BY episode_index, "timestamp", camera, role
HAVING count(*) > 1
