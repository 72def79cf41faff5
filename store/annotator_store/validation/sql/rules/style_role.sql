-- severity: error
-- meaning: every style is said by its own role
SELECT
    episode_index,
    "timestamp",
    format('{} by {}, not {}', coalesce(rows.style, 'speech'), coalesce(role, 'nobody'), array_to_string(roles, ' or '))
        AS detail,
    call
FROM rows
JOIN styles ON styles.style IS NOT DISTINCT FROM rows.style
WHERE len(roles) > 0 AND NOT coalesce(list_contains(roles, role), false)
