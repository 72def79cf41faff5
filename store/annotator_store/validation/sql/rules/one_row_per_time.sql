-- severity: error
-- meaning: no two rows of one style stand at one time, where readers expect one
WITH doubled AS (
    SELECT episode_index, "timestamp", style
    FROM rows
    WHERE style IN (SELECT style FROM styles WHERE one_at_a_time)
    GROUP BY ALL
    HAVING count(*) > 1
)
SELECT
    episode_index,
    "timestamp",
    format('{} {} rows: {}', count(*), style, string_agg(shortened(coalesce(content, '')), ' | ' ORDER BY content))
        AS detail,
    min(call) AS call
FROM rows
JOIN doubled USING (episode_index, "timestamp", style)
GROUP BY episode_index, "timestamp", style
