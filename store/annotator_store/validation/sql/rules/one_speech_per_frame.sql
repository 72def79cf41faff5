-- severity: error
-- meaning: nobody says two things on one frame
SELECT episode_index, "timestamp", format('{} calls of say on this frame', count(*)) AS detail, min(call) AS call
FROM tool_calls
WHERE name = 'say'
GROUP BY episode_index, "timestamp"
HAVING count(*) > 1
