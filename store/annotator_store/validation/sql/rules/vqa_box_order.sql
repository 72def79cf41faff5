-- severity: error
-- meaning: a box goes from left to right and from top to bottom, and has an area
WITH boxes AS (
    SELECT episode_index, "timestamp", call, unnest(answer->'$.detections[*]') AS box FROM answers
), edges AS (
    SELECT *, TRY_CAST(box->'$.bbox' AS DOUBLE[]) AS bbox FROM boxes
)
SELECT episode_index, "timestamp", format('{}: bbox {}', coalesce(box->>'$.label', ''), bbox::VARCHAR) AS detail, call
FROM edges
WHERE len(bbox) = 4 AND NOT (bbox[1] < bbox[3] AND bbox[2] < bbox[4])
