-- severity: error
-- meaning: where a vocabulary has subtasks, every subtask is one of them
SELECT episode_index, "timestamp", format('not in the vocabulary: {}', shortened(content)) AS detail, call
FROM rows
WHERE style = 'subtask' AND NOT is_blank(content)
    AND EXISTS (FROM vocabulary WHERE kind = 'subtask')
    AND content NOT IN (SELECT entry FROM vocabulary WHERE kind = 'subtask')
