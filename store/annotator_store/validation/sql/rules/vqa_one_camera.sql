-- severity: warning
-- meaning: questions on one frame are about one camera: a recipe that names none cannot choose
WITH asked AS (
    SELECT episode_index, "timestamp", count(DISTINCT camera) AS cameras, min(call) AS call
    FROM rows
    WHERE style = 'vqa'
    GROUP BY episode_index, "timestamp"
)
SELECT
    episode_index,
    min("timestamp") AS "timestamp",
    format('{} frames have questions about several cameras, this is the first', count(*)) AS detail,
    arg_min(call, "timestamp") AS call
FROM asked
WHERE cameras > 1
GROUP BY episode_index
