-- severity: error
-- meaning: a row without a style is speech, which has tool calls and no content
SELECT episode_index, "timestamp", format('no style, and the content {}', shortened(content)) AS detail, call
FROM rows
WHERE style IS NULL AND NOT is_blank(content)
