-- Add a batch's annotations; those that are there already stay as they are.
-- Columns: of `batch`, the Arrow table registered for the insert.
INSERT OR IGNORE INTO annotations
SELECT id, episode, module, recipe, recorded_at, rows_digest
FROM batch
WHERE type = 'episode_annotated.v1';
