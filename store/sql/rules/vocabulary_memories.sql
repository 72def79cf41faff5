-- severity: error
-- meaning: where a vocabulary has memories, every memory is one of them
SELECT episode_index, "timestamp", format('not in the vocabulary: {}', shortened(content)) AS detail, call
FROM rows
WHERE style = 'memory' AND NOT is_blank(content)
    AND EXISTS (FROM vocabulary WHERE kind = 'memory')
    AND content NOT IN (SELECT entry FROM vocabulary WHERE kind = 'memory')
