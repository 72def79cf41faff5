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
