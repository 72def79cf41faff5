-- severity: error
-- meaning: speech stands on the first frame or answers an interjection
SELECT
    said.episode_index,
    said."timestamp",
    format(
        'nothing prompts {}',
        shortened(coalesce(strict_json(said.tool_calls[1])->>'$.function.arguments.text', said.tool_calls[1], 'it'))
    ) AS detail,
    said.call
FROM rows AS said
LEFT JOIN episodes USING (episode_index)
ANTI JOIN rows AS asked
    ON asked.episode_index = said.episode_index AND asked."timestamp" = said."timestamp"
    AND asked.style = 'interjection'
WHERE said.style IS NULL AND len(said.tool_calls) > 0 AND said."timestamp" IS DISTINCT FROM episodes.start_s
