"""Sample values that fit a JSON schema: the same schema and seed give the same value, on any machine.

Times are plausible rather than merely valid: they ascend through a list, and a `start` comes before its `end`. So are
boxes: their corners are in order, and they are not flat.
For engines without a model, and for test servers.
"""

import math
import random
from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import msgspec

# fmt: off
_VERBS = ("pick", "place", "push", "pull", "open", "close", "lift", "lower", "grasp", "release", "move", "rotate",
          "insert", "wipe", "hold", "approach")
_THINGS = ("red block", "green cup", "blue bowl", "yellow sponge", "drawer", "cabinet door", "towel", "bottle", "spoon",
           "plate", "white lid", "black box", "banana", "tray", "left handle", "small screw")
_PLACES = ("on the table", "into the bowl", "next to the plate", "in the drawer", "above the sink", "to the left",
           "to the right", "with the gripper")
# fmt: on
_STARTS = frozenset({"start", "start_s", "begin"})
_ENDS = frozenset({"end", "end_s", "stop"})
_TIMES = frozenset({"time", "time_s", "timestamp"})
_MORE_ITEMS = 5
_MORE_VALUE = 100.0

Schema = Mapping[str, Any]


class _Place(msgspec.Struct, frozen=True):
    """Where in the value a schema stands: the field's name, and the span of seconds it may speak about."""

    name: str
    since_s: float
    until_s: float


def sample(schema: Schema, *, seed: str, horizon_s: float = 8.0) -> Any:
    """Sample a JSON value that fits `schema`.

    `seed` is any text. `horizon_s` is where the times end, in seconds, as far as the schema's bounds let them.

    Raises:
        ValueError: the schema uses a keyword this sampler does not know, such as `pattern`.
    """
    return _Sampler(schema, random.Random(seed)).value(schema, _Place("", 0.0, horizon_s))


def sample_text(schema: Schema, *, seed: str, horizon_s: float = 8.0) -> str:
    """Sample as `sample` does, and encode as compact JSON."""
    return msgspec.json.encode(sample(schema, seed=seed, horizon_s=horizon_s)).decode()


class _Sampler:
    def __init__(self, root: Schema, rng: random.Random) -> None:
        self.root = root
        self.rng = rng

    def value(self, schema: Schema, place: _Place) -> Any:
        if "$ref" in schema:
            return self.value(_resolve(self.root, schema["$ref"]), place)
        if "const" in schema:
            return schema["const"]
        if "enum" in schema:
            return self.rng.choice(schema["enum"])
        for union in ("anyOf", "oneOf"):
            if union in schema:
                return self.value(self.rng.choice(schema[union]), place)
        return self._typed(schema, place)

    def _typed(self, schema: Schema, place: _Place) -> Any:
        makers: dict[str, Callable[[], Any]] = {
            "object": lambda: self._object(schema, place),
            "array": lambda: self._array(schema, place),
            "string": lambda: self._string(schema),
            "integer": lambda: self._integer(schema),
            "number": lambda: self._number(schema, place),
            "boolean": lambda: self.rng.random() < 0.5,
            "null": lambda: None,
        }
        kind = schema.get("type", "object")
        if kind not in makers:
            raise ValueError(f"cannot sample a value of type {kind!r}")
        return makers[kind]()

    def _object(self, schema: Schema, place: _Place) -> dict[str, Any]:
        fields = cast("dict[str, Schema]", schema.get("properties", {}))
        return {name: self.value(field, _Place(name, place.since_s, place.until_s)) for name, field in fields.items()}

    def _array(self, schema: Schema, place: _Place) -> list[Any]:
        if place.name == "bbox":
            # The largest of several, so that no box is flat.
            return max((_corners_in_order(self._items(schema, place)) for _ in range(8)), key=_extent)
        return self._items(schema, place)

    def _items(self, schema: Schema, place: _Place) -> list[Any]:
        fixed: list[Schema] = schema.get("prefixItems", [])
        least, most = schema.get("minItems", 0), schema.get("maxItems", math.inf)
        rest: Schema | Literal[False] = schema.get("items", {"type": "string"})
        count = len(fixed) if rest is False else self.rng.randint(least, min(most, max(least, 1) + _MORE_ITEMS))
        step_s = (place.until_s - place.since_s) / max(count, 1)
        items: list[Any] = []
        for i in range(count):
            inside = _Place(place.name, place.since_s + i * step_s, place.since_s + (i + 1) * step_s)
            items.append(self._another(items, fixed[i] if i < len(fixed) else cast("Schema", rest), inside))
        return items

    def _another(self, so_far: list[Any], schema: Schema, place: _Place) -> Any:
        """Sample an item unlike those before it, if a few attempts find one."""
        for _ in range(8):
            item = self.value(schema, place)
            if item not in so_far:
                return item
        return self.value(schema, place)

    def _string(self, schema: Schema) -> str:
        if "pattern" in schema or "format" in schema:
            raise ValueError("cannot sample a string with a pattern or a format")
        least, most = schema.get("minLength", 0), schema.get("maxLength", 200)
        pick = self.rng.choice
        text = f"{pick(_VERBS)} the {pick(_THINGS)} {pick(_PLACES)}"
        while len(text) < least:
            text += f" and {pick(_VERBS)} the {pick(_THINGS)}"
        return text[:most].rstrip().ljust(least, "x")

    def _integer(self, schema: Schema) -> int:
        (low, high), step = _bounds(schema), schema.get("multipleOf", 1)
        return step * self.rng.randint(math.ceil(low / step), math.floor(min(high, low + _MORE_VALUE * step) / step))

    def _number(self, schema: Schema, place: _Place) -> float:
        low, high = _bounds(schema)
        if place.name in _STARTS:
            wish = place.since_s
        elif place.name in _ENDS:
            wish = place.until_s
        elif place.name in _TIMES:
            wish = self.rng.uniform(place.since_s, place.until_s)
        else:
            wish = self.rng.uniform(low, min(high, low + _MORE_VALUE))
        step = schema.get("multipleOf", 0.001)
        # The last rounding takes off what binary floats add: 7 * 0.1 is 0.7000000000000001.
        return min(max(round(round(wish / step) * step, 9), low), high)


def _resolve(root: Schema, ref: str) -> Schema:
    node: Any = root
    for step in ref.removeprefix("#/").split("/"):
        node = node[step]
    return node


def _bounds(schema: Schema) -> tuple[float, float]:
    # Both bounds of an exclusive range are moved inwards; msgspec writes them for gt= and lt=.
    whole = schema.get("type") == "integer"
    step = 1 if whole else 1e-3
    low = schema.get("minimum", schema.get("exclusiveMinimum", -step) + step)
    high = schema.get("maximum", schema.get("exclusiveMaximum", math.inf) - step)
    return low, high


def _corners_in_order(items: list[Any]) -> list[Any]:
    if len(items) != 4:
        return items
    (left, right), (top, bottom) = sorted(items[0::2]), sorted(items[1::2])
    return [left, top, right, bottom]


def _extent(corners: list[Any]) -> float:
    """The shorter side of a box."""
    return min(corners[2] - corners[0], corners[3] - corners[1]) if len(corners) == 4 else 0.0
