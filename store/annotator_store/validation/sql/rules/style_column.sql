-- severity: error
-- meaning: every style stands in its own column
SELECT
    episode_index,
    "timestamp",
    format('{} in {}, belongs in {}', coalesce(rows.style, 'speech'), rows."column", styles."column") AS detail,
    call
FROM rows
JOIN styles ON styles.style IS NOT DISTINCT FROM rows.style
WHERE rows."column" <> styles."column"
