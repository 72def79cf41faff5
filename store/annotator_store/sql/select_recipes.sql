-- Find the newest annotation that followed each of these recipes.
-- Columns: recipe, event_id, rows_digest; digests as hex.
SELECT DISTINCT ON (recipe)
    replace(recipe::VARCHAR, '-', ''),
    replace(id::VARCHAR, '-', ''),
    replace(rows_digest::VARCHAR, '-', '')
FROM annotations
WHERE recipe IN (SELECT unnest($recipes)::UUID)
ORDER BY recipe, recorded_at DESC, id DESC;
