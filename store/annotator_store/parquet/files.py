"""Open shards to read and to write; drivers' errors become a `ShardError` here and nowhere else."""

from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from annotator_store.atomic_files import write_hint
from annotator_store.errors import ShardError
from annotator_store.parquet.layout import Layout

_READ_HINT = "the file may be cut short, or no shard at all: fetch it again, or set it aside"
_BUFFER_BYTES = 1 << 20  # pages of language columns are small: unbuffered, each costs two calls of the system


@contextmanager
def opened_shard(path: Path) -> Generator[pq.ParquetFile]:
    """Open a shard, without reading ahead. Drivers' errors inside become a `ShardError` about reading."""
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            yield file
    except (OSError, pa.ArrowException, UnicodeError) as cause:
        raise ShardError("a shard cannot be read", where=str(path), got=str(cause), hint=_READ_HINT) from cause


@contextmanager
def writing(path: Path) -> Generator[None]:
    """Turn drivers' errors inside into a `ShardError` about writing beside `path`."""
    try:
        yield
    except (OSError, pa.ArrowException) as cause:
        where = str(path.parent)
        raise ShardError("a shard cannot be written", where=where, got=str(cause), hint=write_hint(cause)) from cause


@contextmanager
def shard_writer(path: Path, layout: Layout) -> Generator[pq.ParquetWriter]:
    """Write a new shard of this layout; key-value pairs are added at the end."""
    with writing(path):
        sink = pa.BufferedOutputStream(pa.OSFile(str(path), "wb"), _BUFFER_BYTES)
        writer = pq.ParquetWriter(sink, layout.schema, **layout.options)
    try:
        yield writer
        with writing(path):
            writer.add_key_value_metadata(dict(sorted(layout.key_values.items())))  # the order they are read in varies
            writer.close()
            sink.close()
    finally:
        writer.is_open = False  # after a failed write closing fails again, and so would the writer's `__del__`
        with suppress(OSError, pa.ArrowException):
            sink.close()


def file_identity(path: Path) -> tuple[int, ...] | None:
    """Return device, inode, size and mtime in ns, which change when a file does; None where there is no file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
