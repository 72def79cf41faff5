-- severity: error
-- meaning: the plan is refreshed at every interjection
SELECT
    asked.episode_index,
    asked."timestamp",
    format('no plan at the time of {}', coalesce(shortened(asked.content), 'it')) AS detail,
    asked.call
FROM rows AS asked
ANTI JOIN rows AS planned
    ON planned.episode_index = asked.episode_index AND planned."timestamp" = asked."timestamp"
    AND planned.style = 'plan'
WHERE asked.style = 'interjection'
