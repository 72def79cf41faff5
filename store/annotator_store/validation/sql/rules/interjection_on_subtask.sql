-- severity: warning
-- meaning: where there are subtasks, an interjection comes as one of them starts
SELECT
    asked.episode_index,
    asked."timestamp",
    format('no subtask starts with {}', coalesce(shortened(asked.content), 'it')) AS detail,
    asked.call
FROM rows AS asked
SEMI JOIN rows AS done ON done.episode_index = asked.episode_index AND done.style = 'subtask'
ANTI JOIN rows AS begun
    ON begun.episode_index = asked.episode_index AND begun."timestamp" = asked."timestamp" AND begun.style = 'subtask'
WHERE asked.style = 'interjection'
