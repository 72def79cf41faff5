-- severity: error
-- meaning: boxes and points lie inside the stored frame of their camera
WITH shapes AS (
    SELECT *, unnest(answer->'$.detections[*]') AS shape FROM answers
    UNION ALL
    SELECT *, answer AS shape FROM answers WHERE json_type(answer, '$.point') = 'ARRAY'
), numbers AS (
    SELECT *, TRY_CAST(shape->'$.bbox' AS DOUBLE[]) AS bbox, TRY_CAST(shape->'$.point' AS DOUBLE[]) AS point
    FROM shapes
    JOIN cameras USING (camera)
)
SELECT
    episode_index,
    "timestamp",
    format(
        '{}: {} in a frame of {} x {}', coalesce(shape->>'$.label', ''),
        CASE WHEN bbox IS NULL THEN 'point ' || point::VARCHAR ELSE 'bbox ' || bbox::VARCHAR END, width_px, height_px
    ) AS detail,
    call
FROM numbers
WHERE (len(bbox) = 4 AND NOT ( -- edges lie between pixels, so a box may end at the width
        least(bbox[1], bbox[3]) >= 0 AND greatest(bbox[1], bbox[3]) <= width_px
        AND least(bbox[2], bbox[4]) >= 0 AND greatest(bbox[2], bbox[4]) <= height_px
    ))
    OR (len(point) = 2 AND NOT ( -- a point is the pixel it falls into
        point[1] >= 0 AND point[1] < width_px AND point[2] >= 0 AND point[2] < height_px
    ))
