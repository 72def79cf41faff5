-- severity: error
-- meaning: where a vocabulary has memories, every memory is made of them
-- Entries are taken out longest first, since one may be the beginning of another; nothing may be left but white space.
WITH milestones AS (
    SELECT list(entry ORDER BY length(entry) DESC, entry) AS entries
    FROM vocabulary
    WHERE kind = 'memory'
), remainders AS (
    SELECT *, list_reduce(entries, lambda rest, entry: replace(rest, entry, ' '), content) AS remainder
    FROM rows, milestones
    WHERE style = 'memory' AND NOT is_blank(content)
)
SELECT episode_index, "timestamp", format('not in the vocabulary: {}', shortened(content)) AS detail, call
FROM remainders
WHERE NOT regexp_full_match(remainder, '\s*')
