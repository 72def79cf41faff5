-- severity: error
-- meaning: a question has an answer, and an answer a question, on one frame of one camera
SELECT
    episode_index,
    "timestamp",
    format('{} without {} on {}',
        CASE WHEN bool_or(role = 'user') THEN 'a question' ELSE 'an answer' END,
        CASE WHEN bool_or(role = 'user') THEN 'an answer' ELSE 'a question' END,
        coalesce(camera, 'no camera')) AS detail,
    min(call) AS call
FROM rows
WHERE style = 'vqa' AND role IN ('user', 'assistant')
GROUP BY episode_index, "timestamp", camera
HAVING count(DISTINCT role) = 1
