-- Find the annotation that counts of every episode and module.
-- Columns: episode, module, recipe, event_id, recorded_at, rows_digest; digests as hex.
SELECT
    replace(episode::VARCHAR, '-', ''),
    module,
    replace(recipe::VARCHAR, '-', ''),
    replace(id::VARCHAR, '-', ''),
    recorded_at,
    replace(rows_digest::VARCHAR, '-', '')
FROM current_annotations
ORDER BY episode, module;
