-- severity: error
-- meaning: vqa and trace name a camera of the dataset, no other row names one
SELECT
    episode_index,
    "timestamp",
    CASE
        WHEN camera IS NULL THEN format('{} without a camera', style)
        WHEN style IN ('vqa', 'trace') THEN format('{} names {}, which the dataset does not have', style, camera)
        ELSE format('{} names {}, and no camera belongs there', coalesce(style, 'speech'), camera)
    END AS detail,
    call
FROM rows
WHERE CASE
    WHEN style IN ('vqa', 'trace') THEN camera IS NULL OR camera NOT IN (SELECT camera FROM cameras)
    ELSE camera IS NOT NULL
END
