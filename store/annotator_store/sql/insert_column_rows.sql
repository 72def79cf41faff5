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
