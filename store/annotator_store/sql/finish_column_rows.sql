-- Name what was gathered `rows`, with the columns of the view of that name; what only a store knows is null.
-- Columns: as of views/rows.sql. Ordered by (episode_index, seq).
CREATE TEMP TABLE rows AS
WITH distinct_rows AS (
    SELECT DISTINCT * FROM column_rows WHERE persistent
    UNION ALL
    SELECT * FROM column_rows WHERE NOT persistent
)
SELECT
    episode_index,
    $dataset::VARCHAR AS dataset,
    "timestamp",
    style,
    role,
    content,
    camera,
    tool_calls,
    NULL::VARCHAR AS module,
    'unknown' AS engine,
    'unknown' AS model_id,
    NULL::VARCHAR AS call,
    NULL::VARCHAR AS episode,
    row_number() OVER (
        PARTITION BY episode_index
        ORDER BY "timestamp", style NULLS LAST, role DESC, camera NULLS FIRST, content, tool_calls
    ) - 1 AS seq
FROM distinct_rows
ORDER BY episode_index, seq;
