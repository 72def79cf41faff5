-- severity: error
-- meaning: every style stands in its own column
WITH routed AS (
    SELECT *, CASE
        WHEN style IN ('subtask', 'plan', 'memory', 'motion', 'task_aug') THEN 'language_persistent'
        WHEN style IN ('interjection', 'vqa', 'trace') OR style IS NULL THEN 'language_events'
    END AS its_column
    FROM rows
)
SELECT
    episode_index,
    "timestamp",
    format('{} in {}, belongs in {}', coalesce(style, 'speech'), "column", its_column) AS detail,
    call
FROM routed
WHERE "column" <> its_column
