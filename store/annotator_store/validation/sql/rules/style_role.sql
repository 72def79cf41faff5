-- severity: error
-- meaning: every style is said by its own role
WITH expected AS (
    SELECT *, CASE
        WHEN style IN ('subtask', 'plan', 'memory', 'motion') OR style IS NULL THEN ['assistant']
        WHEN style IN ('task_aug', 'interjection') THEN ['user']
        WHEN style = 'vqa' THEN ['user', 'assistant']
    END AS roles
    FROM rows
)
SELECT
    episode_index,
    "timestamp",
    format('{} by {}, not {}', coalesce(style, 'speech'), coalesce(role, 'nobody'), array_to_string(roles, ' or '))
        AS detail,
    call
FROM expected
WHERE roles IS NOT NULL AND NOT coalesce(list_contains(roles, role), false)
