-- Make the table that a dataset's own language columns are gathered in.
-- Columns: a language row, and whether it stood in the persistent column.
CREATE TEMP TABLE column_rows (
    episode_index BIGINT,
    "timestamp" FLOAT,
    style VARCHAR,
    role VARCHAR,
    content VARCHAR,
    camera VARCHAR,
    tool_calls VARCHAR[],
    persistent BOOLEAN
);
