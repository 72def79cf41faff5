-- severity: error
-- meaning: every row has content or tool calls
SELECT episode_index, "timestamp", format('{} with neither', coalesce(style, 'no style')) AS detail, call
FROM rows
WHERE content IS NULL AND coalesce(len(tool_calls), 0) = 0
