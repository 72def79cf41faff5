-- severity: warning
-- meaning: a numbered plan begins with the subtask in force at its time
SELECT
    planned.episode_index,
    planned."timestamp",
    format('begins with {} while the subtask is {}', shortened(head), shortened(active.content)) AS detail,
    planned.call
FROM (
    SELECT episode_index, "timestamp", call, string_split(content, chr(10))[1] AS head
    FROM rows
    WHERE style = 'plan' AND starts_with(content, '1. ')
) AS planned
ASOF JOIN (SELECT episode_index, "timestamp", content FROM rows WHERE style = 'subtask') AS active
    ON planned.episode_index = active.episode_index AND planned."timestamp" >= active."timestamp"
WHERE NOT contains(lower(head), lower(active.content))
