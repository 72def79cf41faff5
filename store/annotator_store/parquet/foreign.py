"""Language lists that another tool wrote with other Arrow types, converted to ours where nothing is lost.

LeRobot's own writer lets Arrow infer: float64 timestamps, `list<null>` where a shard has no events, and tool calls as a
struct in which every call has every key that any call has (`volume: None`). Those invented nulls are dropped again.
"""

from typing import Any, cast

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from annotator_store.errors import ShardError
from annotator_store.rows import Row

_FIELDS = frozenset({"role", "content", "style", "timestamp", "camera", "tool_calls"})
_LARGEST = float(np.finfo(np.float32).max)
_encoder = msgspec.json.Encoder(order="sorted")


def as_lists(column: pa.Array, where: str) -> pa.ListArray:
    """Read any kind of Arrow list as a plain list; a null list is an empty one.

    Raises:
        ShardError: the column holds no lists.
    """
    if isinstance(column, pa.ListArray):
        return column
    value_type = getattr(column.type, "value_type", None)
    if value_type is None or pa.types.is_dictionary(column.type) or pa.types.is_map(column.type):
        raise _lost("a language column holds no lists", where, str(column.type))
    return cast("pa.ListArray", column.cast(pa.list_(value_type)))


def flat_values(lists: pa.ListArray, offsets: npt.NDArray[np.int32]) -> pa.Array:
    """Return the values of N lists, one list after the other; `offsets`: (N + 1,) int32, those of `lists`."""
    return lists.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))


def foreign_rows(values: pa.Array, stamps: list[float] | None, where: str) -> tuple[Row, ...]:
    """Read R rows of any struct type. `stamps`: R timestamps of the frames of events; None for persistent rows.

    Raises:
        ShardError: a row has something that our columns cannot say.
    """
    plain: list[Any] = values.to_pylist()
    return tuple(_row(value, stamps[index] if stamps is not None else None, where) for index, value in enumerate(plain))


def tool_call_texts(calls: pa.Array, where: str) -> pa.Array:
    """Write tool calls of any Arrow type as texts; what is text already stays as it is, JSON or not.

    Raises:
        ShardError: they are neither texts nor structs.
    """
    if isinstance(calls, pa.ExtensionArray):
        calls = calls.storage
    if pa.types.is_null(calls.type) or pa.types.is_string(calls.type) or pa.types.is_large_string(calls.type):
        return calls.cast(pa.string())
    if not pa.types.is_struct(calls.type):
        raise _lost("a tool call is not JSON", where, str(calls.type))
    plain: list[Any] = calls.to_pylist()
    return pa.array([None if call is None else _tool_call(call, where) for call in plain], pa.string())


def _row(value: Any, stamp: float | None, where: str) -> Row:
    if not isinstance(value, dict):
        raise _lost("a language row is null or no struct", where, repr(value))
    row = cast("dict[str, Any]", value)
    expected = _FIELDS if stamp is None else _FIELDS - {"timestamp"}
    extra = {name: field for name, field in row.items() if name not in expected and field is not None}
    if extra:
        raise _lost("a language row has fields that have no place", where, repr(extra))
    return Row(
        role=_text(row, "role", where, required=True) or "",
        content=_text(row, "content", where),
        style=_text(row, "style", where),
        timestamp=_float32(row.get("timestamp"), where) if stamp is None else stamp,
        camera=_text(row, "camera", where),
        tool_calls=_tool_calls(row.get("tool_calls"), where),
    )


def _text(row: dict[str, Any], name: str, where: str, *, required: bool = False) -> str | None:
    value = row.get(name)
    if isinstance(value, str) or (value is None and not required):
        return value
    raise _lost(f"a language row's {name} is no text", where, repr(value))


def _float32(value: Any, where: str) -> float:
    """Round to float32: frames are stamped in float32, and a float64 list holds those stamps with more digits."""
    if isinstance(value, float) and abs(value) <= _LARGEST:
        return float(np.float32(value))
    raise _lost("a persistent row's timestamp is no number", where, repr(value))


def _tool_calls(value: Any, where: str) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, list):
        return tuple(_tool_call(call, where) for call in cast("list[Any]", value))
    raise _lost("tool_calls is no list", where, repr(value))


def _tool_call(call: Any, where: str) -> str:
    try:
        if isinstance(call, str):
            msgspec.json.decode(call)
            return call
        if isinstance(call, dict):
            return _encoder.encode(_without_nulls(call)).decode()
    except (msgspec.DecodeError, TypeError) as cause:
        raise _lost("a tool call is not JSON", where, f"{call!r}: {cause}") from cause
    raise _lost("a tool call is not JSON", where, repr(call))


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value).items()
        return {key: _without_nulls(item) for key, item in items if item is not None}
    if isinstance(value, list):
        return [_without_nulls(item) for item in cast("list[Any]", value)]
    if isinstance(value, str | int | float | bool | None):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _lost(what: str, where: str, got: str) -> ShardError:
    return ShardError(
        what,
        where=where,
        got=got[:400],
        hint="another tool wrote this; drop the columns language_persistent and language_events from the shard",
    )
