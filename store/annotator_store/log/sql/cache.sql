-- The statements that `log/cache.py` runs, by name: its tables, how they are filled, what is looked up in them.

-- name: create_tables
-- Make the tables of the cache: all of it can be rebuilt from the journal, except `memo`, which may be lost.
-- Columns: see each table; ids and keys are digests as UUID, times are UTC.
CREATE TABLE events (
    id UUID PRIMARY KEY,
    type VARCHAR NOT NULL,
    recorded_at TIMESTAMP NOT NULL,
    run_id VARCHAR NOT NULL,
    key UUID,
    episode UUID,
    body VARCHAR NOT NULL
);
CREATE TABLE outcomes (
    key UUID PRIMARY KEY,
    episode UUID NOT NULL,
    declined BOOLEAN NOT NULL,
    recorded_at TIMESTAMP NOT NULL,
    id UUID NOT NULL
);
CREATE TABLE annotations (
    id UUID PRIMARY KEY,
    episode UUID NOT NULL,
    module VARCHAR NOT NULL,
    recipe UUID NOT NULL,
    recorded_at TIMESTAMP NOT NULL,
    rows_digest UUID NOT NULL
);
CREATE VIEW current_annotations AS
SELECT DISTINCT ON (episode, module) *
FROM annotations
ORDER BY episode, module, recorded_at DESC, id DESC;
CREATE TABLE ingested (file VARCHAR PRIMARY KEY);
CREATE TABLE memo (
    namespace VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    stamp VARCHAR NOT NULL,
    value VARCHAR NOT NULL,
    PRIMARY KEY (namespace, name)
);
CREATE TABLE cache_format (version INTEGER NOT NULL);

-- name: insert_events
-- Add a batch of events; those that are there already stay as they are.
-- Columns: of `batch`, the Arrow table registered for the insert.
INSERT OR IGNORE INTO events
SELECT id, type, recorded_at, run_id, key, episode, body
FROM batch;

-- name: upsert_outcomes
-- Keep for each key the outcome that counts: an answer before a refusal, then the earliest, then the smallest id.
-- Columns: of `batch`, the Arrow table registered for the insert.
INSERT INTO outcomes
SELECT DISTINCT ON (key) key, episode, type = 'call_declined.v1' AS declined, recorded_at, id
FROM batch
WHERE type IN ('call_answered.v1', 'call_declined.v1')
ORDER BY key, declined, recorded_at, id
ON CONFLICT (key) DO UPDATE
SET episode = excluded.episode,
    declined = excluded.declined,
    recorded_at = excluded.recorded_at,
    id = excluded.id
WHERE (excluded.declined, excluded.recorded_at, excluded.id) < (outcomes.declined, outcomes.recorded_at, outcomes.id);

-- name: insert_annotations
-- Add a batch's annotations; those that are there already stay as they are.
-- Columns: of `batch`, the Arrow table registered for the insert.
INSERT OR IGNORE INTO annotations
SELECT id, episode, module, recipe, recorded_at, rows_digest
FROM batch
WHERE type = 'episode_annotated.v1';

-- name: insert_ingested
-- Note which journal files are wholly in the cache.
-- Columns: file.
INSERT OR IGNORE INTO ingested
SELECT unnest($files);

-- name: delete_ingested
-- Forget journal files that have become segments.
-- Columns: file.
DELETE FROM ingested
WHERE file IN (SELECT unnest($files));

-- name: select_ingested
-- Name the journal files that are wholly in the cache.
-- Columns: file.
SELECT file
FROM ingested
ORDER BY file;

-- name: select_current
-- Find the annotation that counts of every episode and module.
-- Columns: episode, module, recipe, event_id, recorded_at, rows_digest; digests as hex.
SELECT
    replace(episode::VARCHAR, '-', ''),
    module,
    replace(recipe::VARCHAR, '-', ''),
    replace(id::VARCHAR, '-', ''),
    recorded_at,
    replace(rows_digest::VARCHAR, '-', '')
FROM current_annotations
ORDER BY episode, module;

-- name: upsert_memo
-- Keep memos, replacing what was there.
-- Columns: of `batch`, the Arrow table registered for the insert.
INSERT OR REPLACE INTO memo
SELECT namespace, name, stamp, value
FROM batch;

-- name: select_memo
-- Look up memos.
-- Columns: name, stamp, value.
SELECT name, stamp, value
FROM memo
WHERE namespace = $namespace AND name IN (SELECT unnest($names))
ORDER BY name;

-- name: select_known
-- Find the outcome that counts of every call made for one episode.
-- Columns: id (hex), body; one row per key.
SELECT replace(outcomes.id::VARCHAR, '-', ''), events.body
FROM outcomes
JOIN events USING (id)
WHERE outcomes.episode = $episode::UUID
ORDER BY outcomes.key;

-- name: select_rejected
-- Find the calls of one episode whose reply did not fit.
-- Columns: key (hex).
SELECT DISTINCT replace(key::VARCHAR, '-', '') AS key
FROM events
WHERE episode = $episode::UUID AND type = 'answer_rejected.v1'
ORDER BY key;

-- name: select_recipes
-- Find the newest annotation that followed each of these recipes.
-- Columns: recipe, event_id, rows_digest; digests as hex.
SELECT DISTINCT ON (recipe)
    replace(recipe::VARCHAR, '-', ''),
    replace(id::VARCHAR, '-', ''),
    replace(rows_digest::VARCHAR, '-', '')
FROM annotations
WHERE recipe IN (SELECT unnest($recipes)::UUID)
ORDER BY recipe, recorded_at DESC, id DESC;

-- name: select_bodies
-- Read these events.
-- Columns: id (hex), body.
SELECT replace(id::VARCHAR, '-', ''), body
FROM events
WHERE id IN (SELECT unnest($ids)::UUID)
ORDER BY id;

-- name: select_answers
-- Read the answer that counts of each of these calls.
-- Columns: id (hex), body; one row per key.
SELECT replace(outcomes.id::VARCHAR, '-', ''), events.body
FROM outcomes
JOIN events USING (id)
WHERE outcomes.key IN (SELECT unnest($keys)::UUID) AND NOT outcomes.declined
ORDER BY outcomes.key;

-- name: select_vocabulary
-- Find the vocabulary of a dataset: the last one that was found or edited.
-- Columns: id (hex), body; at most one row.
SELECT replace(id::VARCHAR, '-', ''), body
FROM events
WHERE type IN ('vocabulary_discovered.v1', 'vocabulary_edited.v1') AND body->>'dataset' = $dataset
ORDER BY recorded_at DESC, id DESC
LIMIT 1;

-- name: select_discovered
-- Find the vocabulary that was first found by following a recipe, in whichever dataset.
-- Columns: id (hex), body; at most one row.
SELECT replace(id::VARCHAR, '-', ''), body
FROM events
WHERE type = 'vocabulary_discovered.v1' AND body->>'recipe' = $recipe
ORDER BY recorded_at, id
LIMIT 1;

-- name: select_discoveries
-- Find every vocabulary that was found for a dataset.
-- Columns: id (hex), body.
SELECT replace(id::VARCHAR, '-', ''), body
FROM events
WHERE type = 'vocabulary_discovered.v1' AND body->>'dataset' = $dataset
ORDER BY recorded_at, id;

-- name: select_models
-- Find how these models were described.
-- Columns: id (hex), body.
SELECT replace(id::VARCHAR, '-', ''), body
FROM events
WHERE type = 'model_described.v1' AND list_contains($models, body->>'model')
ORDER BY recorded_at, id;

-- name: select_shards_written
-- Read every note that a shard was written.
-- Columns: id (hex), body.
SELECT replace(id::VARCHAR, '-', ''), body
FROM events
WHERE type = 'shard_written.v1'
ORDER BY recorded_at, id;

-- name: select_seen
-- Find which episode was last seen at every index of every dataset.
-- Columns: episode (hex), dataset, episode_index.
WITH seen AS (
    SELECT id, episode, recorded_at, from_json(body, '{"dataset":"VARCHAR","episode_index":"BIGINT"}') AS e
    FROM events
    WHERE type = 'episode_seen.v1'
)
SELECT DISTINCT ON (e.dataset, e.episode_index) replace(episode::VARCHAR, '-', ''), e.dataset, e.episode_index
FROM seen
ORDER BY e.dataset, e.episode_index, recorded_at DESC, id DESC;

-- name: select_unreadable
-- Find the episodes of a dataset of which some footage could not be read when they were last seen.
-- Columns: episode (hex), episode_index, unreadable (a JSON object: camera → why).
WITH last_at_index AS (
    SELECT DISTINCT ON ((body->>'episode_index')::BIGINT)
        episode, (body->>'episode_index')::BIGINT AS episode_index, body->'unreadable' AS unreadable
    FROM events
    WHERE type = 'episode_seen.v1' AND body->>'dataset' = $dataset
    ORDER BY (body->>'episode_index')::BIGINT, recorded_at DESC, id DESC
)
SELECT replace(episode::VARCHAR, '-', ''), episode_index, unreadable::VARCHAR
FROM last_at_index
WHERE unreadable IS NOT NULL AND unreadable::VARCHAR <> '{}'
ORDER BY episode_index;

-- name: select_footage
-- Find what each camera of a dataset's episodes was last seen to have recorded.
-- Columns: episode (hex), episode_index, camera, footage (a digest).
WITH seen AS (
    SELECT id, episode, recorded_at, (body->>'episode_index')::BIGINT AS episode_index,
        unnest(from_json(body->'cameras', '[{"camera": "VARCHAR", "footage": "VARCHAR"}]')) AS seen
    FROM events
    WHERE type = 'episode_seen.v1' AND body->>'dataset' = $dataset
)
SELECT DISTINCT ON (episode, episode_index, seen.camera)
    replace(episode::VARCHAR, '-', ''), episode_index, seen.camera, seen.footage
FROM seen
ORDER BY episode, episode_index, seen.camera, recorded_at DESC, id DESC;

-- name: select_all_bodies
-- Read every event.
-- Columns: id (hex), body.
SELECT replace(id::VARCHAR, '-', ''), body
FROM events
ORDER BY id;

-- name: select_outcomes
-- Name the outcome that counts of every call.
-- Columns: key, episode, declined, recorded_at, id; digests as hex.
SELECT
    replace(key::VARCHAR, '-', ''),
    replace(episode::VARCHAR, '-', ''),
    declined,
    recorded_at,
    replace(id::VARCHAR, '-', '')
FROM outcomes
ORDER BY key;

-- name: select_annotations
-- Describe every annotation.
-- Columns: id, episode, module, recipe, recorded_at, rows_digest; digests as hex.
SELECT
    replace(id::VARCHAR, '-', ''),
    replace(episode::VARCHAR, '-', ''),
    module,
    replace(recipe::VARCHAR, '-', ''),
    recorded_at,
    replace(rows_digest::VARCHAR, '-', '')
FROM annotations
ORDER BY id;
