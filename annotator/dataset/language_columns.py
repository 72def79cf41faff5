"""Read the two language columns of a dataset, whoever wrote them."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from annotator.dataset.metadata import open_dataset
from annotator.dataset.shard_scan import open_shard
from annotator.errors import UsageError
from annotator_store.rows import EVENTS, PERSISTENT

if TYPE_CHECKING:
    import pyarrow as pa


def has_language_columns(root: Path) -> bool:
    """Whether every data shard of the dataset has both language columns."""
    names = [set(open_shard(root / shard).schema_arrow.names) for shard in open_dataset(root).shards]
    return all({EVENTS, PERSISTENT} <= columns for columns in names)


def read_language_columns(root: Path) -> "Iterator[pa.Table]":
    """Read a dataset's language columns with episode_index and timestamp, row group after row group.

    Raises:
        UsageError: a shard has none.
    """
    dataset = open_dataset(root)
    columns = ["episode_index", "timestamp", PERSISTENT, EVENTS]
    for shard in dataset.shards:
        missing = set(columns) - set(open_shard(root / shard).schema_arrow.names)
        if missing:
            got, hint = f"no {', '.join(sorted(missing))}", "annotator sync writes them"
            raise UsageError("a data shard has no language columns", where=str(root / shard), got=got, hint=hint)
    for shard in dataset.shards:
        with open_shard(root / shard) as file:
            for group in range(file.metadata.num_row_groups):
                yield _typed(file.read_row_group(group, columns=columns))


def _typed(table: "pa.Table") -> "pa.Table":
    """Give a column in which nothing was ever said the type it would have: some tools write `list<null>` then."""
    import pyarrow as pa

    from annotator_store.parquet.columns import language_field

    for name in (PERSISTENT, EVENTS):
        if pa.types.is_null(getattr(table.schema.field(name).type, "value_type", pa.string())):
            index = table.schema.get_field_index(name)
            table = table.set_column(index, name, pa.nulls(len(table), language_field(name).type))
    return table
