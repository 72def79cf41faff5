-- severity: error
-- meaning: every call is a function call of say, with a text that is not blank
WITH calls AS (
    SELECT episode_index, "timestamp", call, unnest(tool_calls) AS body
    FROM rows
    WHERE style IS NULL
), parsed AS (
    SELECT *, strict_json(body) AS said FROM calls
), judged AS (
    SELECT *, CASE
        WHEN json_type(said) IS DISTINCT FROM 'OBJECT' THEN 'no JSON object'
        WHEN said->>'$.type' IS DISTINCT FROM 'function' THEN 'type is not function'
        WHEN said->>'$.function.name' IS DISTINCT FROM 'say' THEN 'function.name is not say'
        WHEN json_type(said, '$.function.arguments') IS DISTINCT FROM 'OBJECT' THEN 'function.arguments is no object'
        WHEN NOT is_text(said->'$.function.arguments.text') THEN 'function.arguments.text is no text'
        WHEN is_blank(said->>'$.function.arguments.text') THEN 'function.arguments.text is blank'
    END AS fault
    FROM parsed
)
SELECT episode_index, "timestamp", format('{}: {}', fault, coalesce(shortened(body), 'null')) AS detail, call
FROM judged
WHERE fault IS NOT NULL
