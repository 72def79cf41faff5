-- severity: error
-- meaning: no text is blank, neither a row's nor one in a vqa answer
WITH texts AS (
    SELECT episode_index, "timestamp", style, content AS body, call FROM rows
    UNION ALL
    SELECT episode_index, "timestamp", 'a text of a vqa answer', unnest(list_concat(
        answer->>['$.label', '$.attribute', '$.value', '$.subject', '$.relation', '$.object', '$.note'],
        answer->>'$.detections[*].label'
    )), call
    FROM answers
)
SELECT episode_index, "timestamp", format('{}: {}', coalesce(style, 'no style'), to_json(body)) AS detail, call
FROM texts
WHERE is_blank(body)
