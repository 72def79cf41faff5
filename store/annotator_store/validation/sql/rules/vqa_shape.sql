-- severity: error
-- meaning: every vqa answer is JSON of one of the five shapes
WITH keyed AS (
    SELECT *, list_sort(json_keys(answer)) AS names FROM answers
), judged AS (
    SELECT *, CASE
        WHEN answer IS NULL THEN 'no JSON'
        WHEN json_type(answer) <> 'OBJECT' THEN 'no object'
        WHEN names = ['detections'] THEN CASE
            WHEN json_type(answer, '$.detections') <> 'ARRAY' THEN 'detections is no list'
            WHEN len(list_filter((answer->'$.detections[*]')::JSON[], lambda found: NOT (
                list_sort(json_keys(found)) = ['bbox', 'bbox_format', 'label'] AND is_text(found->'$.label')
                AND coalesce(found->>'$.bbox_format' = 'xyxy', false)
                AND json_array_length(found, '$.bbox') = 4
                AND len(list_filter((found->'$.bbox[*]')::JSON[], lambda edge: is_number(edge))) = 4
            ))) > 0 THEN 'a detection is not {bbox: four numbers, bbox_format: xyxy, label: text}'
        END
        WHEN names = ['label', 'point', 'point_format'] THEN CASE
            WHEN NOT (
                is_text(answer->'$.label') AND coalesce(answer->>'$.point_format' = 'xy', false)
                AND json_array_length(answer, '$.point') = 2
                AND len(list_filter((answer->'$.point[*]')::JSON[], lambda edge: is_number(edge))) = 2
            ) THEN 'not {label: text, point: two numbers, point_format: xy}'
        END
        WHEN names IN (['count', 'label'], ['count', 'label', 'note']) THEN CASE
            WHEN NOT (
                is_text(answer->'$.label') AND json_type(answer, '$.count') = 'UBIGINT'
                AND (len(names) = 2 OR is_text(answer->'$.note') OR json_type(answer, '$.note') = 'NULL')
            ) THEN 'not {count: whole number, label: text} with at most a note: text'
        END
        WHEN names = ['attribute', 'label', 'value'] THEN CASE
            WHEN NOT (is_text(answer->'$.attribute') AND is_text(answer->'$.label') AND is_text(answer->'$.value'))
            THEN 'not {attribute: text, label: text, value: text}'
        END
        WHEN names = ['object', 'relation', 'subject'] THEN CASE
            WHEN NOT (is_text(answer->'$.object') AND is_text(answer->'$.relation') AND is_text(answer->'$.subject'))
            THEN 'not {object: text, relation: text, subject: text}'
        END
        ELSE 'the keys are of no shape'
    END AS fault
    FROM keyed
)
SELECT episode_index, "timestamp", format('{}: {}', fault, shortened(content)) AS detail, call
FROM judged
WHERE fault IS NOT NULL
