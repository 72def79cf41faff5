-- The statements of `validation/run.py`, by name: the tables that rules read.

-- name: create_rule_tables
-- Make the tables that rules read, from the Arrow tables of the same names with `given_` before them.
-- Columns: as below; docs/validation.md describes them for teams that write rules of their own.
CREATE TEMP TABLE frames AS
SELECT episode_index::BIGINT AS episode_index, frame_index::BIGINT AS frame_index, "timestamp"::FLOAT AS "timestamp"
FROM given_frames;
CREATE TEMP TABLE rows AS
SELECT
    episode_index::BIGINT AS episode_index,
    "column"::VARCHAR AS "column",
    role::VARCHAR AS role,
    content::VARCHAR AS content,
    style::VARCHAR AS style,
    "timestamp"::DOUBLE AS "timestamp",
    camera::VARCHAR AS camera,
    tool_calls::VARCHAR[] AS tool_calls,
    call::VARCHAR AS call,
    module::VARCHAR AS module,
    kept::BOOLEAN AS kept
FROM given_rows;
CREATE TEMP TABLE episodes AS
SELECT episode_index, count(*) AS frames, min("timestamp") AS start_s, max("timestamp") AS end_s
FROM frames
GROUP BY episode_index;
CREATE TEMP TABLE cameras AS
SELECT camera::VARCHAR AS camera, width_px::BIGINT AS width_px, height_px::BIGINT AS height_px FROM given_cameras;
CREATE TEMP TABLE styles AS
SELECT
    style::VARCHAR AS style,
    "column"::VARCHAR AS "column",
    roles::VARCHAR[] AS roles,
    has_camera::BOOLEAN AS has_camera,
    one_at_a_time::BOOLEAN AS one_at_a_time
FROM given_styles;
CREATE TEMP TABLE vocabulary AS
SELECT kind::VARCHAR AS kind, entry::VARCHAR AS entry FROM given_vocabulary;
CREATE TEMP TABLE tools AS
SELECT name::VARCHAR AS name FROM given_tools;
CREATE TEMP TABLE persistent_changes AS
SELECT
    episode_index::BIGINT AS episode_index,
    "timestamp"::FLOAT AS "timestamp",
    rows_here::BIGINT AS rows_here,
    rows_at_start::BIGINT AS rows_at_start
FROM given_persistent_changes;
-- DuckDB takes NaN and trailing commas for JSON, which readers do not. A text that may hold either is looked at again
-- without its strings, which may say anything; what is left must be plain.
CREATE TEMP MACRO without_strings(body) AS regexp_replace(body, '"(\\.|[^"\\])*"', '""', 'g');
CREATE TEMP MACRO strict_json(body) AS CASE
    WHEN NOT regexp_matches(body, '(?i)nan|inf|,\s*[}\]]|[/''+]') OR (
        regexp_full_match(regexp_replace(without_strings(body), 'true|false|null', '', 'g'), '[-+0-9.eE\s{}\[\],:"]*')
        AND NOT regexp_matches(without_strings(body), ',\s*[}\]]')
    ) THEN TRY_CAST(body AS JSON)
END;
CREATE TEMP MACRO is_number(value) AS coalesce(json_type(value) IN ('BIGINT', 'UBIGINT', 'HUGEINT', 'DOUBLE'), false);
CREATE TEMP MACRO is_text(value) AS coalesce(json_type(value) = 'VARCHAR', false);
-- White space of every script, control and format characters, and letters that show nothing (fillers, blank Braille).
CREATE TEMP MACRO is_blank(body) AS regexp_full_match(
    body, '[\s\p{Z}\p{Cc}\p{Cf}\x{034F}\x{115F}\x{1160}\x{2800}\x{3164}\x{FE00}-\x{FE0F}\x{FFA0}]*'
);
CREATE TEMP MACRO shortened(body) AS CASE WHEN length(body) > 60 THEN left(body, 57) || '...' ELSE body END;

-- name: update_rule_calls
-- Say of rows that were read off a shard which call they came from, where the log has the very same row.
-- Columns: of `given_calls`: episode_index, timestamp, style, role, camera, content, tool_calls, call.
UPDATE rows
SET call = given_calls.call
FROM given_calls
WHERE rows.episode_index = given_calls.episode_index
    AND rows."timestamp" = given_calls."timestamp"
    AND rows.role = given_calls.role
    AND rows.style IS NOT DISTINCT FROM given_calls.style
    AND rows.camera IS NOT DISTINCT FROM given_calls.camera
    AND rows.content IS NOT DISTINCT FROM given_calls.content
    AND rows.tool_calls IS NOT DISTINCT FROM given_calls.tool_calls;

-- name: create_rule_answers
-- Make the tables of vqa answers and of tool calls, with the JSON that they are; null where a text is none.
-- Columns: answers: episode_index, timestamp, camera, content, answer, call.
--          tool_calls: episode_index, timestamp, name, body, parsed, call.
CREATE TEMP TABLE answers AS
SELECT episode_index, "timestamp", camera, content, strict_json(content) AS answer, call
FROM rows
WHERE style = 'vqa' AND role = 'assistant' AND NOT is_blank(content);
CREATE TEMP TABLE tool_calls AS
WITH called AS (
    SELECT episode_index, "timestamp", unnest(tool_calls) AS body, call FROM rows WHERE style IS NULL
), read AS (
    SELECT *, strict_json(body) AS parsed FROM called
)
SELECT
    episode_index,
    "timestamp",
    CASE WHEN is_text(parsed->'$.function.name') THEN parsed->>'$.function.name' END AS name,
    body,
    parsed,
    call
FROM read;
