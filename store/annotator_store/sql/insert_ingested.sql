-- Note which journal files are wholly in the cache.
-- Columns: file.
INSERT OR IGNORE INTO ingested
SELECT unnest($files);
