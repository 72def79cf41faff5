-- Make the tables of vqa answers and of tool calls, with the JSON that they are; null where a text is none.
-- Columns: answers: episode_index, timestamp, camera, content, answer, call.
--          tool_calls: episode_index, timestamp, name, body, parsed, call.
CREATE TEMP TABLE answers AS
SELECT episode_index, "timestamp", camera, content, strict_json(content) AS answer, call
FROM rows
WHERE style = 'vqa' AND role = 'assistant' AND NOT is_blank(content);
CREATE TEMP TABLE tool_calls AS
WITH called AS (
    SELECT episode_index, "timestamp", unnest(tool_calls) AS body, call FROM rows WHERE style IS NULL
), read AS (
    SELECT *, strict_json(body) AS parsed FROM called
)
SELECT
    episode_index,
    "timestamp",
    CASE WHEN is_text(parsed->'$.function.name') THEN parsed->>'$.function.name' END AS name,
    body,
    parsed,
    call
FROM read;
