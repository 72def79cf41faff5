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
