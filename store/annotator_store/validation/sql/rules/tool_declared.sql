-- severity: error
-- meaning: every tool that is called is one of those that meta/info.json declares
SELECT
    episode_index,
    min("timestamp") AS "timestamp",
    format('{} is not declared, and called on {} frames', shortened(name), count(DISTINCT "timestamp")) AS detail,
    arg_min(call, "timestamp") AS call
FROM tool_calls
WHERE NOT is_blank(name) AND name NOT IN (SELECT name FROM tools)
GROUP BY episode_index, name
