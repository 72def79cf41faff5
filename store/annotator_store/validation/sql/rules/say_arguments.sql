-- severity: error
-- meaning: every call is a function call by name, and one of say has a text that is not blank
WITH judged AS (
    SELECT *, CASE
        WHEN json_type(parsed) IS DISTINCT FROM 'OBJECT' THEN 'no JSON object'
        WHEN parsed->>'$.type' IS DISTINCT FROM 'function' THEN 'type is not function'
        WHEN name IS NULL OR is_blank(name) THEN 'function.name is no name'
        WHEN name <> 'say' THEN NULL -- what another tool takes is for its own schema to say
        WHEN json_type(parsed, '$.function.arguments') IS DISTINCT FROM 'OBJECT' THEN 'function.arguments is no object'
        WHEN NOT is_text(parsed->'$.function.arguments.text') THEN 'function.arguments.text is no text'
        WHEN is_blank(parsed->>'$.function.arguments.text') THEN 'function.arguments.text is blank'
    END AS fault
    FROM tool_calls
)
SELECT episode_index, "timestamp", format('{}: {}', fault, coalesce(shortened(body), 'null')) AS detail, call
FROM judged
WHERE fault IS NOT NULL
