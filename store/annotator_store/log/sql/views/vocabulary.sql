-- Every entry of the vocabulary that counts now, for each dataset, and since when and from where it has been there.
-- Columns: as below; `since`, `origin`, `event` tell of the entry, not of the list. Ordered by (dataset, kind, seq).
WITH recorded AS (
    SELECT id, recorded_at, run_id,
        CASE type WHEN 'vocabulary_discovered.v1' THEN 'discovered' ELSE 'edited' END AS origin,
        from_json(body, '{"dataset": "VARCHAR", "subtasks": ["VARCHAR"], "memories": ["VARCHAR"]}') AS e
    FROM events
    WHERE type IN ('vocabulary_discovered.v1', 'vocabulary_edited.v1')
), numbered AS (
    SELECT *, row_number() OVER (PARTITION BY e.dataset ORDER BY recorded_at, id) AS version,
        count(*) OVER (PARTITION BY e.dataset) AS versions
    FROM recorded
), entries AS (
    SELECT version, versions, e.dataset AS dataset, 'subtask' AS kind,
        unnest(e.subtasks) AS entry, unnest(range(len(e.subtasks))) AS seq
    FROM numbered
    UNION ALL
    SELECT version, versions, e.dataset, 'memory', unnest(e.memories), unnest(range(len(e.memories)))
    FROM numbered
), stays AS (
    -- Versions that follow each other share this difference: an entry that left and came back has two stays.
    SELECT *, version - row_number() OVER (PARTITION BY dataset, kind, entry ORDER BY version) AS stay
    FROM entries
), dated AS (
    SELECT *, min(version) OVER (PARTITION BY dataset, kind, entry, stay) AS came
    FROM stays
)
SELECT
    dated.dataset AS dataset,
    dated.kind AS kind,
    dated.seq AS seq,
    dated.entry AS entry,
    numbered.origin AS origin,
    numbered.recorded_at AS since,
    numbered.run_id AS run_id,
    replace(numbered.id::VARCHAR, '-', '') AS event
FROM dated
JOIN numbered ON numbered.e.dataset = dated.dataset AND numbered.version = dated.came
WHERE dated.version = dated.versions
ORDER BY dataset, kind, seq;
