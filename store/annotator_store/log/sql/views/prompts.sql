-- Every prompt that was sent, in full, and how many calls were answered with it.
-- Columns: prompt (hex), step, text (canonical JSON: messages and schema), calls. Ordered by (prompt, step).
WITH rendered AS (
    SELECT DISTINCT ON (e.prompt, e.step) e
    FROM (
        SELECT id, recorded_at, from_json(body, '{"prompt": "VARCHAR", "step": "VARCHAR", "text": "VARCHAR"}') AS e
        FROM events
        WHERE type = 'prompt_rendered.v1'
    )
    ORDER BY e.prompt, e.step, recorded_at, id
), used AS (
    SELECT body->>'$.prompt' AS prompt, body->>'$.step' AS step, count(DISTINCT key) AS calls
    FROM events
    WHERE type = 'call_answered.v1'
    GROUP BY ALL
)
SELECT e.prompt AS prompt, e.step AS step, e.text AS "text", coalesce(used.calls, 0) AS calls
FROM rendered
LEFT JOIN used ON used.prompt = e.prompt AND used.step = e.step
ORDER BY prompt, step;
