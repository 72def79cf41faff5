-- Add a batch of events; those that are there already stay as they are.
-- Columns: of `batch`, the Arrow table registered for the insert.
INSERT OR IGNORE INTO events
SELECT id, type, recorded_at, run_id, key, episode, body
FROM batch;
