-- Make the table of vqa answers, with the JSON that they are; null where an answer is none.
-- Columns: episode_index, timestamp, camera, content, answer, call.
CREATE TEMP TABLE answers AS
SELECT episode_index, "timestamp", camera, content, strict_json(content) AS answer, call
FROM rows
WHERE style = 'vqa' AND role = 'assistant' AND NOT is_blank(content);
