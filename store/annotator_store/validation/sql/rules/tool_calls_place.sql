-- severity: error
-- meaning: only speech has tool calls
SELECT episode_index, "timestamp", format('{} calls {}', style, shortened(coalesce(tool_calls[1], 'null'))) AS detail, call
FROM rows
WHERE style IS NOT NULL AND len(tool_calls) > 0
