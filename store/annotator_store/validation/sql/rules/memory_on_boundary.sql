-- severity: warning
-- meaning: memory changes where a subtask starts
SELECT
    kept.episode_index,
    kept."timestamp",
    format('no subtask starts with the memory {}', coalesce(shortened(kept.content), '')) AS detail,
    kept.call
FROM rows AS kept
ANTI JOIN rows AS begun
    ON begun.episode_index = kept.episode_index AND begun."timestamp" = kept."timestamp" AND begun.style = 'subtask'
WHERE kept.style = 'memory'
