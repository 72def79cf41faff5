"""Faults, planted one at a time into a copy of an annotated dataset: in its shard, and in its log."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from annotator_store.log.events import AnyEvent, decode_event
from annotator_store.log.segments import list_segments
from annotator_store.parquet.episode_language import EpisodeRows
from annotator_store.parquet.rewrite import prepare_shard, read_rows
from annotator_store.rows import Row
from tests.datasets import shard_path

SHARD = shard_path(0)


def flipped(text: str) -> str:
    """Flip the lowest bit of a text's last letter."""
    at = max(at for at, letter in enumerate(text) if letter.isalpha())
    return text[:at] + chr(ord(text[at]) ^ 1) + text[at + 1 :]


def flip_row(row: Row) -> Row:
    """Flip one bit of what a row says."""
    if row.content is not None:
        return msgspec.structs.replace(row, content=flipped(row.content))
    assert row.tool_calls is not None
    said = msgspec.json.decode(row.tool_calls[0])
    said["function"]["arguments"]["text"] = flipped(said["function"]["arguments"]["text"])
    return msgspec.structs.replace(row, tool_calls=(msgspec.json.encode(said, order="sorted").decode(),))


def plant_in_shard(root: Path, style: str | None, role: str) -> tuple[int, Row]:
    """Flip the last row of a style, in a shard well formed in all else; gives its episode, and the row as it was."""
    starts = pq.ParquetFile(root / SHARD).read(["episode_index"])["episode_index"].to_numpy()
    bounds = list(pairwise([*np.unique(starts, return_index=True)[1].tolist(), len(starts)]))
    found = list(map(list, read_rows(root / SHARD, bounds)))
    places = [(episode, at) for episode, rows in enumerate(found) for at in range(len(rows))]
    episode, at = [(e, at) for e, at in places if (found[e][at].style, found[e][at].role) == (style, role)][-1]
    was, found[episode][at] = found[episode][at], flip_row(found[episode][at])
    start, stop = bounds[episode]
    rows = EpisodeRows(start=start, stop=stop, rows=tuple(found[episode]))
    prepare_shard(root / SHARD, root / SHARD, [rows]).commit()
    return episode, was


def plant_in_log(root: Path, pick: Callable[[Any], bool], change: Callable[[bytes, Any], bytes]) -> AnyEvent:
    """Give the first event that `pick` picks another body, under the id and the file name it had; gives the event."""
    for name in list_segments(root / ".annotator" / "journal"):
        path = root / ".annotator" / "journal" / name
        table = pq.ParquetFile(path).read()
        bodies = [body.encode() for body in table["body"].to_pylist()]
        for at, body in enumerate(bodies):
            event = decode_event(body)
            if pick(event):
                bodies[at] = change(body, event)
                assert bodies[at] != body
                texts = pa.array([one.decode() for one in bodies])
                pq.write_table(table.set_column(table.column_names.index("body"), "body", texts), path)
                return event
    raise AssertionError("no such event")
