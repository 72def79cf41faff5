-- Name the journal files that are wholly in the cache.
-- Columns: file.
SELECT file
FROM ingested
ORDER BY file;
