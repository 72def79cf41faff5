-- severity: error
-- meaning: vqa and trace name a camera of the dataset, no other row names one
SELECT
    episode_index,
    "timestamp",
    CASE
        WHEN camera IS NULL THEN format('{} without a camera', rows.style)
        WHEN has_camera THEN format('{} names {}, which the dataset does not have', rows.style, camera)
        ELSE format('{} names {}, and no camera belongs there', coalesce(rows.style, 'speech'), camera)
    END AS detail,
    call
FROM rows
LEFT JOIN styles ON styles.style IS NOT DISTINCT FROM rows.style
WHERE CASE
    WHEN has_camera THEN camera IS NULL OR camera NOT IN (SELECT camera FROM cameras)
    ELSE camera IS NOT NULL
END
