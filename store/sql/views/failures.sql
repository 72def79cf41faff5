-- Everything that was asked for and is, or was, missing: calls that failed, replies that did not fit, refusals.
-- Columns: as below; `superseded`: since then it was answered, or its module finished without that gap. Ordered by id.
WITH missing AS (
    SELECT id, key, recorded_at, run_id, type, episode, from_json(body, '{
        "step": "VARCHAR", "kind": "VARCHAR", "detail": "VARCHAR", "reason": "VARCHAR", "reply": "VARCHAR",
        "retryable": "BOOLEAN", "attempts": "BIGINT", "engine": "VARCHAR", "model_id": "VARCHAR"
    }') AS e
    FROM events
    WHERE type IN ('call_failed.v1', 'answer_rejected.v1', 'call_declined.v1')
), finished AS (
    SELECT current_annotations.episode, module, current_annotations.recorded_at,
        list_transform(from_json(body, '{"gaps": [{"call": "UUID"}]}').gaps, lambda g: g.call) AS gaps
    FROM current_annotations
    JOIN events USING (id)
    UNION ALL
    -- The vocabulary is asked about episodes together, which its call names as one.
    SELECT outcomes.episode, 'vocabulary', max(events.recorded_at), []::UUID[]
    FROM events
    JOIN outcomes ON outcomes.key = TRY_CAST(events.body->>'call' AS UUID)
    WHERE type = 'vocabulary_discovered.v1'
    GROUP BY outcomes.episode
), places AS (
    SELECT DISTINCT ON (digest) digest, episode_index
    FROM episodes
    ORDER BY digest, seen_at DESC, dataset
)
SELECT
    replace(missing.id::VARCHAR, '-', '') AS id,
    CASE missing.type
        WHEN 'call_failed.v1' THEN 'failed' WHEN 'answer_rejected.v1' THEN 'rejected' ELSE 'declined'
    END AS outcome,
    e.step AS step,
    places.episode_index AS episode_index,
    replace(missing.episode::VARCHAR, '-', '') AS episode,
    coalesce(e.kind, outcome) AS kind,
    coalesce(e.detail, e.reason) AS detail,
    e.reply AS reply,
    e.retryable AS retryable,
    e.attempts AS attempts,
    e.engine AS engine,
    e.model_id AS model_id,
    replace(missing.key::VARCHAR, '-', '') AS key,
    missing.recorded_at AS recorded_at,
    missing.run_id AS run_id,
    (missing.type = 'call_failed.v1' AND answered.key IS NOT NULL) OR coalesce(
        finished.recorded_at > missing.recorded_at AND NOT list_contains(coalesce(finished.gaps, []), missing.key),
        false
    ) AS superseded
FROM missing
LEFT JOIN outcomes AS answered ON answered.key = missing.key AND NOT answered.declined
LEFT JOIN finished ON finished.episode = missing.episode AND finished.module = split_part(e.step, '.', 1)
LEFT JOIN places ON places.digest = replace(missing.episode::VARCHAR, '-', '')
ORDER BY id;
