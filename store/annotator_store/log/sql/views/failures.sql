-- What is, or was, missing: answers that never came or did not fit, unreadable footage, rows that a rule kept out.
-- Columns: as below; `superseded`: it is over. Ordered by (id, key, episode, detail).
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
), gaps AS (
    SELECT id, events.episode AS episode, events.recorded_at AS recorded_at, run_id,
        from_json(body, '{"engine": "VARCHAR", "model_id": "VARCHAR"}') AS e,
        unnest(from_json(
            body, '{"gaps": [{"step": "VARCHAR", "reason": "VARCHAR", "detail": "VARCHAR", "call": "UUID"}]}'
        ).gaps) AS gap
    FROM current_annotations
    JOIN events USING (id)
), sightings AS (
    SELECT id, recorded_at, run_id, episode, body->>'dataset' AS dataset,
        (body->>'episode_index')::BIGINT AS episode_index, body->'unreadable' AS unreadable
    FROM events
    WHERE type = 'episode_seen.v1'
), unread AS (
    -- Every sighting says all that cannot be read, so the last one at its place counts, while the place is there.
    SELECT id, sightings.recorded_at AS recorded_at, run_id, episode, sightings.episode_index AS episode_index,
        unnest(map_entries(unreadable::MAP(VARCHAR, VARCHAR))) AS unreadable,
        episodes.seen_at IS DISTINCT FROM sightings.recorded_at AS superseded
    FROM sightings
    LEFT JOIN episodes USING (dataset, episode_index)
), quarantined AS (
    SELECT DISTINCT ON (dataset, episode) id, recorded_at, run_id, dataset, item.key AS episode, item.value AS rules
    FROM (
        SELECT id, recorded_at, run_id, body->>'dataset' AS dataset,
            unnest(map_entries((body->'quarantined')::MAP(UUID, VARCHAR[]))) AS item
        FROM events
        WHERE type = 'run_finished.v1'
    )
    ORDER BY dataset, episode, recorded_at DESC, id DESC
), written AS (
    SELECT recorded_at, dataset, made_of.episode AS episode
    FROM (
        SELECT recorded_at, body->>'dataset' AS dataset,
            unnest(from_json(body, '{"made_of": [{"episode": "UUID", "sources": "JSON"}]}').made_of) AS made_of
        FROM events
        WHERE type = 'shard_written.v1'
    )
    WHERE made_of.sources::VARCHAR LIKE '{"%'
), lost AS (
    SELECT id, key, recorded_at, run_id, episode, e.step AS step,
        CASE type
            WHEN 'call_failed.v1' THEN 'failed' WHEN 'answer_rejected.v1' THEN 'rejected' ELSE 'declined'
        END AS outcome,
        coalesce(e.kind, outcome) AS kind, coalesce(e.detail, e.reason) AS detail, e.reply AS reply,
        e.retryable AS retryable, e.attempts AS attempts, e.engine AS engine, e.model_id AS model_id
    FROM missing
    UNION ALL BY NAME
    -- A gap without an event of its own: the answer was used but for this.
    SELECT DISTINCT id, gap.call AS key, recorded_at, run_id, episode, gap.step AS step, gap.reason AS outcome,
        gap.reason AS kind, gap.detail AS detail, e.engine AS engine, e.model_id AS model_id
    FROM gaps
    ANTI JOIN missing ON missing.key = gap.call
    UNION ALL BY NAME
    SELECT id, recorded_at, run_id, episode, 'unreadable' AS outcome, 'footage' AS kind,
        unreadable.key || ': ' || unreadable.value AS detail, episode_index, superseded
    FROM unread
    UNION ALL BY NAME
    SELECT id, recorded_at, run_id, episode, 'quarantined' AS outcome, 'quarantined' AS kind, unnest(rules) AS detail,
        recorded_at < coalesce(greatest(
            (SELECT max(finished.recorded_at) FROM finished WHERE finished.episode = quarantined.episode),
            (SELECT max(written.recorded_at) FROM written
             WHERE written.episode = quarantined.episode AND written.dataset = quarantined.dataset)
        ), recorded_at) AS superseded
    FROM quarantined
), places AS (
    SELECT DISTINCT ON (digest) digest, episode_index
    FROM episodes
    ORDER BY digest, seen_at DESC, dataset
)
SELECT
    replace(lost.id::VARCHAR, '-', '') AS id,
    lost.outcome AS outcome,
    lost.step AS step,
    coalesce(lost.episode_index, places.episode_index) AS episode_index,
    replace(lost.episode::VARCHAR, '-', '') AS episode,
    lost.kind AS kind,
    lost.detail AS detail,
    lost.reply AS reply,
    lost.retryable AS retryable,
    lost.attempts AS attempts,
    lost.engine AS engine,
    lost.model_id AS model_id,
    replace(lost.key::VARCHAR, '-', '') AS key,
    lost.recorded_at AS recorded_at,
    lost.run_id AS run_id,
    coalesce(lost.superseded, false) OR (lost.outcome = 'failed' AND answered.key IS NOT NULL) OR coalesce(
        finished.recorded_at > lost.recorded_at AND NOT list_contains(coalesce(finished.gaps, []), lost.key), false
    ) AS superseded
FROM lost
LEFT JOIN outcomes AS answered ON answered.key = lost.key AND NOT answered.declined
LEFT JOIN finished ON finished.episode = lost.episode AND finished.module = split_part(lost.step, '.', 1)
LEFT JOIN places ON places.digest = replace(lost.episode::VARCHAR, '-', '')
ORDER BY id, key, episode, detail;
