-- The statements of `log/query.py`, by name: `rows` as a dataset's own language columns have them, without a log.

-- name: select_annotated_shard
-- Say whether any shard has rows that an annotation gave; a shard is also noted where all of it was left as it stood.
-- Columns: path; at most one row.
SELECT path
FROM (
    SELECT body->>'path' AS path, from_json(body, '{"made_of": [{"sources": "JSON"}]}').made_of AS made_of
    FROM events
    WHERE type = 'shard_written.v1'
)
WHERE coalesce(len(made_of), 0) = 0
    OR len(list_filter(made_of, lambda one: one.sources::VARCHAR LIKE '{"%')) > 0
ORDER BY path
LIMIT 1;

-- name: create_column_rows
-- Make the table that a dataset's own language columns are gathered in.
-- Columns: a language row, and whether it stood in the persistent column.
CREATE TEMP TABLE column_rows (
    episode_index BIGINT,
    "timestamp" FLOAT,
    style VARCHAR,
    role VARCHAR,
    content VARCHAR,
    camera VARCHAR,
    tool_calls VARCHAR[],
    persistent BOOLEAN
);

-- name: insert_column_rows
-- Gather the language rows of a batch of frames; a persistent list that many frames repeat is taken once.
-- Columns: of `batch`: episode_index, timestamp, language_persistent, language_events.
INSERT INTO column_rows
WITH persistent AS (
    SELECT DISTINCT episode_index, language_persistent FROM batch
), unnested AS (
    SELECT episode_index, unnest(language_persistent) AS item FROM persistent
)
SELECT DISTINCT episode_index, item."timestamp", item.style, item.role, item.content, item.camera,
    list_transform(item.tool_calls, lambda c: c::JSON::VARCHAR), true
FROM unnested;
INSERT INTO column_rows
WITH unnested AS (
    SELECT episode_index, "timestamp", unnest(language_events) AS item FROM batch
)
SELECT episode_index, "timestamp", item.style, item.role, item.content, item.camera,
    list_transform(item.tool_calls, lambda c: c::JSON::VARCHAR), false
FROM unnested;

-- name: finish_column_rows
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
