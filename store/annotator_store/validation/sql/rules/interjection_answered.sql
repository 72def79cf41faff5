-- severity: error
-- meaning: every interjection is answered by speech on its frame
SELECT
    asked.episode_index,
    asked."timestamp",
    format('no speech answers {}', coalesce(shortened(asked.content), 'it')) AS detail,
    asked.call
FROM rows AS asked
ANTI JOIN tool_calls AS said
    ON said.episode_index = asked.episode_index AND said."timestamp" = asked."timestamp" AND said.name = 'say'
WHERE asked.style = 'interjection'
