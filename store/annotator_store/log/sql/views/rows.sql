-- Every language row that counts now: the rows of the current annotations, for each dataset the episode is in.
-- Columns: as below; `seq` counts an annotation's rows. Ordered by (dataset, episode_index, episode, module, seq).
WITH annotated AS (
    SELECT
        replace(current_annotations.episode::VARCHAR, '-', '') AS episode,
        current_annotations.module AS module,
        from_json(events.body, '{"engine": "VARCHAR", "model_id": "VARCHAR", "rows": [{"call": "VARCHAR", "row": {
            "role": "VARCHAR", "content": "VARCHAR", "style": "VARCHAR", "timestamp": "FLOAT", "camera": "VARCHAR",
            "tool_calls": ["VARCHAR"]
        }}]}') AS e
    FROM current_annotations
    JOIN events USING (id)
), unnested AS (
    SELECT episode, module, e.engine AS engine, e.model_id AS model_id,
        unnest(e.rows) AS item, unnest(range(len(e.rows))) AS seq
    FROM annotated
), refreshes AS (
    -- A plan at an interjection is the interjection's own: it stands in the place of the plan's.
    SELECT DISTINCT episode, item.row."timestamp" AS "timestamp"
    FROM unnested
    WHERE module = 'interjections' AND item.row.style = 'plan'
), planned AS (
    SELECT episode, item.row."timestamp" AS "timestamp", item.row.style AS style, item.row.content AS content
    FROM unnested
    WHERE module = 'plan' AND item.row.style IN ('plan', 'subtask')
), begun AS (
    SELECT episode, refreshes."timestamp" AS "timestamp", max(planned."timestamp") AS since
    FROM refreshes JOIN planned USING (episode)
    WHERE style = 'subtask' AND planned."timestamp" <= refreshes."timestamp"
    GROUP BY ALL
), remaining AS (
    SELECT episode, begun."timestamp" AS "timestamp", content,
        row_number() OVER (PARTITION BY episode, begun."timestamp" ORDER BY planned."timestamp") AS number
    FROM begun JOIN planned USING (episode)
    WHERE style = 'subtask' AND planned."timestamp" >= since
), renewed AS (
    -- It may have been made after another plan than the one that counts: what it says is what that one leaves to do.
    SELECT episode, "timestamp", coalesce(any_value(planned.content), any_value(counted.content)) AS content
    FROM (
        SELECT episode, "timestamp", string_agg(format('{}. {}', number, content), chr(10) ORDER BY number) AS content
        FROM remaining GROUP BY ALL
    ) AS counted
    LEFT JOIN (FROM planned WHERE style = 'plan') AS planned USING (episode, "timestamp")
    GROUP BY ALL
)
SELECT
    episodes.episode_index AS episode_index,
    episodes.dataset AS dataset,
    item.row."timestamp" AS "timestamp",
    item.row.style AS style,
    item.row.role AS role,
    CASE WHEN module = 'interjections' AND item.row.style = 'plan' THEN coalesce(renewed.content, item.row.content)
        ELSE item.row.content END AS content,
    item.row.camera AS camera,
    item.row.tool_calls AS tool_calls,
    unnested.module AS module,
    unnested.engine AS engine,
    unnested.model_id AS model_id,
    item.call AS call,
    unnested.episode AS episode,
    unnested.seq AS seq
FROM unnested
JOIN episodes ON episodes.digest = unnested.episode
LEFT JOIN refreshes ON refreshes.episode = unnested.episode AND refreshes."timestamp" = item.row."timestamp"
LEFT JOIN renewed ON renewed.episode = unnested.episode AND renewed."timestamp" = item.row."timestamp"
WHERE NOT (refreshes.episode IS NOT NULL AND module = 'plan' AND item.row.style = 'plan')
ORDER BY dataset, episode_index, episode, module, seq;
