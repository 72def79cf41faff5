-- severity: error
-- meaning: speech stands on the first frame or answers an interjection
SELECT
    said.episode_index,
    said."timestamp",
    format('nothing prompts {}', shortened(coalesce(said.parsed->>'$.function.arguments.text', said.body, 'it'))) AS detail,
    said.call
FROM tool_calls AS said
LEFT JOIN episodes USING (episode_index)
ANTI JOIN rows AS asked
    ON asked.episode_index = said.episode_index AND asked."timestamp" = said."timestamp"
    AND asked.style = 'interjection'
WHERE said.name = 'say' AND said."timestamp" IS DISTINCT FROM episodes.start_s
