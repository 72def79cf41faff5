-- Keep memos, replacing what was there.
-- Columns: of `batch`, the Arrow table registered for the insert.
INSERT OR REPLACE INTO memo
SELECT namespace, name, stamp, value
FROM batch;
