-- severity: error
-- meaning: every row stands at the exact timestamp of a frame of its episode
WITH off AS (
    SELECT rows.episode_index, rows."timestamp", rows.style, rows.call
    FROM rows
    ANTI JOIN frames ON frames.episode_index = rows.episode_index AND frames."timestamp" = rows."timestamp"
), there AS (
    SELECT episode_index, "timestamp"::DOUBLE AS "timestamp" FROM frames SEMI JOIN off USING (episode_index)
), placed AS (
    SELECT off.*, before."timestamp" AS before_s, after."timestamp" AS after_s
    FROM off
    ASOF LEFT JOIN there AS before
        ON before.episode_index = off.episode_index AND before."timestamp" <= off."timestamp"
    ASOF LEFT JOIN there AS after
        ON after.episode_index = off.episode_index AND after."timestamp" >= off."timestamp"
)
SELECT
    episode_index,
    "timestamp",
    format('{} at {} s: ', coalesce(style, 'speech'), coalesce("timestamp"::VARCHAR, 'no')) || CASE
        WHEN before_s IS NULL AND after_s IS NULL THEN 'no frame is near'
        WHEN after_s IS NULL OR "timestamp" - before_s <= after_s - "timestamp"
        THEN format('the nearest frame is at {} s', before_s)
        ELSE format('the nearest frame is at {} s', after_s)
    END AS detail,
    call
FROM placed
