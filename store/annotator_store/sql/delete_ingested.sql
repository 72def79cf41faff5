-- Forget journal files that have become segments.
-- Columns: file.
DELETE FROM ingested
WHERE file IN (SELECT unnest($files));
