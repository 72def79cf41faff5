-- severity: error
-- meaning: every style is one that readers know
SELECT episode_index, "timestamp", format('style {}', style) AS detail, call
FROM rows
ANTI JOIN styles USING (style)
WHERE style IS NOT NULL
