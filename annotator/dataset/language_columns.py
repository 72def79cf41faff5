"""Read the two language columns of a dataset, whichever tool wrote them."""

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
    """Yield the language columns with episode_index and timestamp, one table per row group, in shard order.

    Raises:
        UsageError: a shard does not have the columns.
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
    """Return the table with empty columns of type `list<null>`, as some tools write them, cast to the language type."""
    import pyarrow as pa

    from annotator_store.parquet.columns import language_field

    for name in (PERSISTENT, EVENTS):
        if pa.types.is_null(getattr(table.schema.field(name).type, "value_type", pa.string())):
            index = table.schema.get_field_index(name)
            table = table.set_column(index, name, pa.nulls(len(table), language_field(name).type))
    return table
