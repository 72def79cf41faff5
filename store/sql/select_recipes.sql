-- Find the newest annotation that followed each of these recipes.
-- Columns: recipe (hex), event_id (hex).
SELECT DISTINCT ON (recipe) replace(recipe::VARCHAR, '-', ''), replace(id::VARCHAR, '-', '')
FROM annotations
WHERE recipe IN (SELECT unnest($recipes)::UUID)
ORDER BY recipe, recorded_at DESC, id DESC;
