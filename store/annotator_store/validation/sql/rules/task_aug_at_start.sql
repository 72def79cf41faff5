-- severity: error
-- meaning: another wording of the task stands on the first frame
SELECT
    rows.episode_index,
    rows."timestamp",
    format('the episode starts at {} s: {}', episodes.start_s, coalesce(shortened(rows.content), '')) AS detail,
    rows.call
FROM rows
JOIN episodes USING (episode_index)
WHERE rows.style = 'task_aug' AND rows."timestamp" IS DISTINCT FROM episodes.start_s
