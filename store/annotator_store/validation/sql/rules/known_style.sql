-- severity: error
-- meaning: every style is one that readers know
SELECT episode_index, "timestamp", format('style {}', style) AS detail, call
FROM rows
WHERE style NOT IN ('subtask', 'plan', 'memory', 'motion', 'task_aug', 'interjection', 'vqa', 'trace')
