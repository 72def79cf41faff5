-- severity: error
-- meaning: nobody says two things on one frame
SELECT episode_index, "timestamp", format('{} calls on this frame', sum(len(tool_calls))) AS detail, min(call) AS call
FROM rows
WHERE style IS NULL AND len(tool_calls) > 0
GROUP BY episode_index, "timestamp"
HAVING sum(len(tool_calls)) > 1
