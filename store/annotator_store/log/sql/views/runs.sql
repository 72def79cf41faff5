-- Every run that came to its end, and what it took. A run that was killed leaves none.
-- Columns: as below; arguments, answered_by_step, versions and broken_rules are JSON text. Ordered by (finished_at, id).
SELECT
    replace(id::VARCHAR, '-', '') AS id,
    run_id,
    e.dataset AS dataset,
    e.outcome AS outcome,
    e.started_at AS started_at,
    recorded_at AS finished_at,
    e.elapsed_s AS elapsed_s,
    e.engine AS engine,
    e.model_id AS model_id,
    e.episodes AS episodes,
    e.episodes_skipped AS episodes_skipped,
    e.calls_answered AS calls_answered,
    e.calls_hit AS calls_hit,
    e.calls_failed AS calls_failed,
    e.calls_declined AS calls_declined,
    e.answers_rejected AS answers_rejected,
    e.answered_by_step::VARCHAR AS answered_by_step,
    e.tokens_in AS tokens_in,
    e.tokens_out AS tokens_out,
    e.frames_decoded AS frames_decoded,
    e.shards_written AS shards_written,
    e.arguments::VARCHAR AS arguments,
    e.versions::VARCHAR AS versions,
    e.broken_rules::VARCHAR AS broken_rules
FROM (
    SELECT id, run_id, recorded_at, from_json(body, '{
        "dataset": "VARCHAR", "outcome": "VARCHAR", "started_at": "TIMESTAMP", "elapsed_s": "DOUBLE",
        "engine": "VARCHAR", "model_id": "VARCHAR", "episodes": "BIGINT", "episodes_skipped": "BIGINT",
        "calls_answered": "BIGINT", "calls_hit": "BIGINT", "calls_failed": "BIGINT", "calls_declined": "BIGINT",
        "answers_rejected": "BIGINT", "answered_by_step": "JSON", "tokens_in": "BIGINT", "tokens_out": "BIGINT",
        "frames_decoded": "BIGINT", "shards_written": "BIGINT", "arguments": "JSON", "versions": "JSON",
        "broken_rules": "JSON"
    }') AS e
    FROM events
    WHERE type = 'run_finished.v1'
)
ORDER BY finished_at, id;
