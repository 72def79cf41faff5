-- Every call that was ever made, once, with how it ended: answered, rejected, declined or failed.
-- Columns: as below; what a call without a reply cannot have is null. Ordered by key.
WITH parsed AS (
    SELECT id, type, recorded_at, run_id, replace(key::VARCHAR, '-', '') AS key,
        replace(episode::VARCHAR, '-', '') AS episode,
        from_json(body, '{
            "step": "VARCHAR", "reply": "VARCHAR", "answer": "JSON", "tokens_in": "BIGINT", "tokens_out": "BIGINT",
            "elapsed_s": "DOUBLE", "engine": "VARCHAR", "model_id": "VARCHAR", "model_revision": "VARCHAR",
            "endpoint": "VARCHAR", "finish_reason": "VARCHAR", "prompt": "VARCHAR", "frames": "VARCHAR",
            "seed": "BIGINT", "attempts": "BIGINT", "versions": "JSON"
        }') AS e
    FROM events
    WHERE type IN ('call_answered.v1', 'call_declined.v1', 'call_failed.v1')
), ended AS (
    SELECT DISTINCT ON (key) *
    FROM parsed
    ORDER BY key,
        CASE type WHEN 'call_answered.v1' THEN 0 WHEN 'call_declined.v1' THEN 1 ELSE 2 END,
        CASE WHEN type = 'call_failed.v1' THEN -epoch_us(recorded_at) ELSE epoch_us(recorded_at) END,
        id
), rejected AS (
    SELECT DISTINCT replace(key::VARCHAR, '-', '') AS key
    FROM events
    WHERE type = 'answer_rejected.v1'
), places AS (
    SELECT DISTINCT ON (digest) digest, episode_index
    FROM episodes
    ORDER BY digest, seen_at DESC, dataset
)
SELECT
    ended.key AS key,
    e.step AS step,
    places.episode_index AS episode_index,
    ended.episode AS episode,
    CASE
        WHEN type = 'call_failed.v1' THEN 'failed'
        WHEN type = 'call_declined.v1' THEN 'declined'
        WHEN rejected.key IS NOT NULL THEN 'rejected'
        ELSE 'answered'
    END AS outcome,
    e.reply AS reply,
    e.answer::VARCHAR AS answer,
    e.tokens_in AS tokens_in,
    e.tokens_out AS tokens_out,
    e.elapsed_s AS elapsed_s,
    e.engine AS engine,
    e.model_id AS model_id,
    e.model_revision AS model_revision,
    e.versions::VARCHAR AS versions,
    e.endpoint AS endpoint,
    e.finish_reason AS finish_reason,
    ended.recorded_at AS recorded_at,
    ended.run_id AS run_id,
    e.prompt AS prompt,
    e.frames AS frames,
    e.seed AS seed,
    CASE WHEN type = 'call_declined.v1' THEN 0 ELSE coalesce(e.attempts, 1) END AS attempts
FROM ended
LEFT JOIN rejected USING (key)
LEFT JOIN places ON places.digest = ended.episode
ORDER BY key;
