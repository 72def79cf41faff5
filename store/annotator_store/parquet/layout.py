"""How a shard is laid out, read from its footer, so that a rewritten one is laid out the same.

Column order and types, key-value pairs, row groups, codecs, dictionaries, statistics, page index and sort order.
`ARROW:schema` is ours to write: it says what leaves mean (fixed-size lists, JSON), and must name the new columns.
"""

import base64
from typing import Any, cast

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from annotator_store.parquet.columns import with_language
from annotator_store.parquet.read import is_language_leaf

_REPEATED_FLOATS = ".timestamp"
"""Of language, a dictionary is for texts: hashing 30 floats a frame takes longer than letting the codec find them."""
_WRITE_BATCH = 1 << 14
"""Values encoded at a time; Parquet's 1,024 costs a tenth more time on 30 rows a frame. Pages end where they did."""
_NAMED_ENCODINGS = {"BYTE_STREAM_SPLIT", "DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY", "DELTA_BYTE_ARRAY"}
"""Encodings that the writer must be told by name; plain and dictionary pages follow from the other options."""


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """What the Parquet writer needs: `schema`, `key_values` and `options` of a `ParquetWriter`.

    `others`: paths of the leaves that are not language, as the source names them.
    """

    schema: pa.Schema
    others: tuple[str, ...]
    key_values: dict[bytes, bytes]
    options: dict[str, Any]


def read_layout(file: pq.ParquetFile) -> Layout:
    """Read a shard's layout, with both language columns added to it where it has none."""
    metadata = file.metadata
    schema = with_language(file.schema_arrow.remove_metadata(), physical=True)
    kept = [i for i in range(metadata.num_columns) if not is_language_leaf(metadata.schema.column(i).path)]
    others = tuple(metadata.schema.column(i).path for i in kept)
    compliant = not any(path.endswith(".list.item") for path in others)
    paths = leaf_paths(schema, compliant)
    language = [path for path in paths if is_language_leaf(path)]
    renamed = dict(zip(kept, (path for path in paths if not is_language_leaf(path)), strict=True))
    options: dict[str, Any] = {
        "use_compliant_nested_type": compliant,
        "store_schema": False,
        "version": metadata.format_version if metadata.format_version in {"1.0", "2.4", "2.6"} else "2.6",
        "write_batch_size": _WRITE_BATCH,
    }
    options |= _column_options(metadata, renamed, language)
    declared = with_language(file.schema_arrow).serialize().to_pybytes()
    key_values = cast("dict[bytes, bytes]", metadata.metadata or {}) | {b"ARROW:schema": base64.b64encode(declared)}
    return Layout(schema=schema, others=others, key_values=key_values, options=options)


def leaf_paths(schema: pa.Schema, compliant: bool) -> tuple[str, ...]:
    """Name the Parquet columns that a schema is written as, in order, by writing no rows."""
    sink = pa.BufferOutputStream()
    pq.ParquetWriter(sink, schema, store_schema=False, use_compliant_nested_type=compliant).close()
    parquet = pq.ParquetFile(pa.BufferReader(sink.getvalue())).metadata.schema
    return tuple(parquet.column(i).path for i in range(len(parquet)))


def _column_options(metadata: pq.FileMetaData, renamed: dict[int, str], language: list[str]) -> dict[str, Any]:
    groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
    chunks = [(path, [group.column(index) for group in groups]) for index, path in renamed.items()]
    codecs = {path: column[0].compression for path, column in chunks if column}
    common = max(codecs.values(), key=list(codecs.values()).count, default="SNAPPY")
    codecs = {path: codecs.get(path, "SNAPPY") for path, _ in chunks} | dict.fromkeys(language, common)
    dictionary = [path for path, column in chunks if any(chunk.has_dictionary_page for chunk in column)]
    encodings = {
        path: next((encoding for encoding in column[0].encodings if encoding in _NAMED_ENCODINGS), "")
        for path, column in chunks
        if column and path not in dictionary
    }
    orders = {group.sorting_columns for group in groups}
    order = orders.pop() if len(orders) == 1 else ()
    return {
        "compression": {path: "NONE" if codec == "UNCOMPRESSED" else codec for path, codec in codecs.items()},
        "use_dictionary": [*dictionary, *(path for path in language if not path.endswith(_REPEATED_FLOATS))],
        "column_encoding": {path: encoding for path, encoding in encodings.items() if encoding} or None,
        "write_statistics": [path for path, column in chunks if any(chunk.is_stats_set for chunk in column)],
        "write_page_index": any(chunk.has_offset_index for _, column in chunks for chunk in column),
    } | ({"sorting_columns": list(order)} if order else {})
