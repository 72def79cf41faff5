-- severity: warning
-- meaning: no wording of the task is there twice
SELECT
    episode_index,
    min("timestamp") AS "timestamp",
    format('{} times: {}', count(*), shortened(min(content))) AS detail,
    min(call) AS call
FROM rows
WHERE style = 'task_aug' AND NOT is_blank(content)
GROUP BY episode_index, lower(trim(content))
HAVING count(*) > 1
