-- Describe every annotation.
-- Columns: id, episode, module, recipe, recorded_at, rows_digest; digests as hex.
SELECT
    replace(id::VARCHAR, '-', ''),
    replace(episode::VARCHAR, '-', ''),
    module,
    replace(recipe::VARCHAR, '-', ''),
    recorded_at,
    replace(rows_digest::VARCHAR, '-', '')
FROM annotations
ORDER BY id;
