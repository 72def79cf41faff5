-- Say of rows that were read off a shard which call they came from, where the log has the very same row.
-- Columns: of `given_calls`: episode_index, timestamp, style, role, camera, content, tool_calls, call.
UPDATE rows
SET call = given_calls.call
FROM given_calls
WHERE rows.episode_index = given_calls.episode_index
    AND rows."timestamp" = given_calls."timestamp"
    AND rows.role = given_calls.role
    AND rows.style IS NOT DISTINCT FROM given_calls.style
    AND rows.camera IS NOT DISTINCT FROM given_calls.camera
    AND rows.content IS NOT DISTINCT FROM given_calls.content
    AND rows.tool_calls IS NOT DISTINCT FROM given_calls.tool_calls;
