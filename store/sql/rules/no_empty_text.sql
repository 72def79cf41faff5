-- severity: error
-- meaning: no text is blank
SELECT episode_index, "timestamp", format('{}: {}', coalesce(style, 'no style'), to_json(content)) AS detail, call
FROM rows
WHERE is_blank(content)
