-- Look up memos.
-- Columns: name, stamp, value.
SELECT name, stamp, value
FROM memo
WHERE namespace = $namespace AND name IN (SELECT unnest($names))
ORDER BY name;
