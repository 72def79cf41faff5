-- severity: warning
-- meaning: rows of one style are at least 0.2 s apart: readers match them within 0.1 s
WITH times AS (
    SELECT DISTINCT ON (episode_index, style, "timestamp") episode_index, style, "timestamp", call
    FROM rows
    WHERE style IN (SELECT style FROM styles WHERE one_at_a_time AND "column" = 'language_persistent')
    ORDER BY episode_index, style, "timestamp", call
), spaced AS (
    SELECT *, "timestamp" - lag("timestamp") OVER (PARTITION BY episode_index, style ORDER BY "timestamp") AS gap_s
    FROM times
)
SELECT
    episode_index,
    "timestamp",
    format('{} comes {:.3f} s after the one before it', style, gap_s) AS detail,
    call
FROM spaced
WHERE gap_s < 0.1999 -- float32 timestamps that are 0.2 s apart differ by a little less
