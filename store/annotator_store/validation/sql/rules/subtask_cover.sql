-- severity: error
-- meaning: where there are subtasks, one is active at every frame
WITH firsts AS (
    SELECT episode_index, min("timestamp") AS "timestamp", arg_min(call, "timestamp") AS call
    FROM rows
    WHERE style = 'subtask'
    GROUP BY episode_index
)
SELECT
    firsts.episode_index,
    firsts."timestamp",
    format('the first starts at {} s, the episode at {} s', firsts."timestamp"::FLOAT, episodes.start_s) AS detail,
    firsts.call
FROM firsts
JOIN episodes USING (episode_index)
WHERE firsts."timestamp" > episodes.start_s
