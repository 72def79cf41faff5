"""A small OpenAI-compatible server whose first replies do not fit, and whose second ones do.

What it answers depends on the request's text, schema and seed alone, never on the order of requests. A request that
shows an earlier reply is a second one. It imports nothing of this repository.
"""

import copy
import hashlib
import json
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

MODEL = "test-model"

Fault = Callable[[dict[str, Any]], str]
"""What is sent in place of a right answer."""

_WORDS = ("grip the banana", "lift the box", "open the left drawer", "wait above the tray", "put the lid down")
_PLACES = ("on the table", "beside the plate", "with the right arm", "near the edge")
_LONG = "and then some more " * 30
_CUT = "\0cut"
"""Stands before a text that ends because the longest reply was reached."""


def _changed(**fields: Any) -> Fault:
    return lambda good: json.dumps(good | fields)


def _without(name: str) -> Fault:
    return lambda good: json.dumps({key: value for key, value in good.items() if key != name})


def _inside(name: str, **fields: Any) -> Fault:
    """Change the last entry of a list of objects."""

    def fault(good: dict[str, Any]) -> str:
        changed = copy.deepcopy(good)
        changed[name][-1].update(fields)
        return json.dumps(changed)

    return fault


def _all_inside(name: str, **fields: Any) -> Fault:
    """Change every entry of a list of objects."""
    return lambda good: json.dumps(good | {name: [entry | fields for entry in good[name]]})


def _many_spans(good: dict[str, Any]) -> str:
    span = good["subtasks"][0]
    return json.dumps({"subtasks": [span] * 11})


def _spans_apart(good: dict[str, Any]) -> str:
    """A label with a word that tells it from the one it resembles."""
    return json.dumps({"subtasks": [one | {"subtask": f"never {one['subtask']}"} for one in good["subtasks"]]})


def _spans_with_another(good: dict[str, Any]) -> str:
    """A label with a word more, which other labels have."""
    spans: list[dict[str, Any]] = []
    for one in good["subtasks"]:
        word = next(word for word in ("left", "lift", "grip") if word not in one["subtask"])
        spans.append(one | {"subtask": f"{one['subtask']} {word}"})
    return json.dumps({"subtasks": spans})


_COMMON: tuple[Fault, ...] = (
    lambda good: "I am happy to help with that!",
    lambda good: _CUT + json.dumps(good)[:20],
    lambda good: '{"surprise": true}',
    lambda good: "{}",
    lambda good: json.dumps(good)[:-3],
    lambda good: json.dumps(good) + " and so on",
    lambda good: json.dumps(good).replace(":", "", 1),
)
_QUESTION: tuple[Fault, ...] = (_changed(question=" . "), _changed(question=""), _changed(question=7))
_FAULTS: dict[str, tuple[Fault, ...]] = {
    "vocabulary_discover": (
        _changed(subtasks=[" "], memories=[" "]),
        _changed(subtasks=[" ", "."]),
        _changed(memories=["\t"]),
    ),
    "plan_task": (*_COMMON, _changed(task="x" * 201), _changed(task=None)),
    "plan_describe": (
        *_COMMON,
        _changed(observations=[]),
        _inside("observations", time=-1),
        _inside("observations", time="soon"),
        _inside("observations", time=90000),
        _inside("observations", event=""),
        _changed(observations=[{"time": 1, "event": "waits"}] * 41),
    ),
    "plan_segment": (
        _all_inside("subtasks", start=5000, end=6000),
        _all_inside("subtasks", subtask=" . "),
        _all_inside("subtasks", subtask="sing a song"),
        _spans_apart,
        _spans_with_another,
        _many_spans,
        _changed(subtasks=[]),
        _inside("subtasks", start=None),
        _inside("subtasks", extra=1),
    ),
    "plan_relabel": (*_COMMON, _changed(subtask=""), _changed(subtask=["x"])),
    "plan_memory": (*_COMMON, _changed(memory=""), _changed(memory=_LONG), _changed(memory={})),
    "plan_milestones": (*_COMMON, _changed(memories="none"), _changed(memories=["x"] * 13), _changed(memories=[""])),
    "plan_task_rephrasings": (
        _changed(rephrasings=[]),
        _changed(rephrasings=["x"] * 65),
        _changed(rephrasings=["x", _LONG]),
        _changed(rephrasings=["x", 1.5]),
    ),
    "plan_task_aug_axes": (_without("omit_grasp_method"), _changed(omit_arm=["x"] * 17), _changed(omit_arm=True)),
    "interjections_initial_speech": (_changed(speech=" ... "), _changed(speech="")),
    "interjections_interjection": (
        _changed(interjection="?!"),
        _changed(reply=" "),
        _changed(scenario="a joke"),
        _changed(reply=_LONG),
        _without("reply"),
    ),
    "vqa_bbox": (
        _inside("detections", label=" "),
        _inside("detections", bbox=[10, 20, 1200, 900]),
        _inside("detections", bbox=[10, 20, 900, 1200]),
        _inside("detections", bbox=[10, 20, 10, 900]),
        _inside("detections", bbox=[10, 20, 900, 20]),
        _inside("detections", bbox=[10, 20, 900]),
        _inside("detections", bbox=[10, 20, 900, 200000]),
    ),
    "vqa_keypoint": (*_QUESTION, _changed(label="."), _changed(point=[1001, 5]), _changed(point=[5, 1000.5])),
    "vqa_count": (*_QUESTION, _changed(label=" "), _changed(count=-1), _changed(count=1001), _changed(count=1.5)),
    "vqa_attribute": (*_QUESTION, _changed(label=" "), _changed(attribute=" "), _changed(value=".")),
    "vqa_spatial": (*_QUESTION, _changed(subject=" "), _changed(relation=" "), _changed(object=".")),
}
_STUBBORN = frozenset({"vqa_count", "plan_describe"})
"""Steps of which some second replies do not fit either."""


_SALTS = {
    "plan_describe": 53,
    "plan_memory": 97,
    "plan_milestones": 42,
    "plan_relabel": 310,
    "plan_segment": 4,
    "plan_task": 1,
    "plan_task_aug_axes": 1,
    "vqa_attribute": 1,
    "vqa_bbox": 41,
    "vqa_count": 2,
}
"""Chosen so that as many faults as there are requests for come up."""


class FakeServer(ThreadingHTTPServer):
    """The server, and how many requests it got since `take` was called last, by step and whether first or second."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def api_base(self) -> str:
        """The URL to give to `--vlm.api_base`."""
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def count(self, step: str, *, again: bool) -> None:
        """Count one request."""
        with self._lock:
            self._counts[f"{step} {'second' if again else 'first'}"] += 1

    def take(self) -> dict[str, int]:
        """Give the counts, and begin anew."""
        with self._lock:
            counts, self._counts = dict(sorted(self._counts.items())), Counter()
        return counts


@contextmanager
def fake_server() -> Generator[FakeServer]:
    """Run a server on a port of its own."""
    server = FakeServer()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        known: dict[str, Any] = {
            "/health": {},
            "/version": {"version": "fake-1"},
            "/v1/models": {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "test"}]},
        }
        self._send(known.get(self.path), 200 if self.path in known else 404)

    def do_POST(self) -> None:
        ask = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        form = ask["response_format"]["json_schema"]
        again = any(message["role"] == "assistant" for message in ask["messages"])
        server = self.server
        assert isinstance(server, FakeServer)
        server.count(form["name"], again=again)
        text = _reply(form["name"], form["schema"], _said(ask["messages"]), ask.get("seed", 0), again=again)
        reason = "length" if text.startswith(_CUT) else "stop"
        message = {"role": "assistant", "content": text.removeprefix(_CUT)}
        choice = {"index": 0, "message": message, "finish_reason": reason}
        usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
        self._send({"id": "c", "object": "chat.completion", "created": 0, "model": MODEL, "choices": [choice]}
                   | {"usage": usage}, 200)  # fmt: skip

    def _send(self, body: Any, status: int) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Say nothing."""


def _said(messages: list[dict[str, Any]]) -> str:
    """Gather the texts of all messages but those of the first reply and what was said of it."""
    texts: list[str] = []
    for message in messages:
        if message["role"] == "assistant":
            break
        content = message["content"]
        parts = cast("list[dict[str, Any]]", content) if isinstance(content, list) else [{"text": content}]
        texts += [part["text"] for part in parts if "text" in part]
    return "\n".join(texts)


def _reply(step: str, schema: dict[str, Any], said: str, seed: int, *, again: bool) -> str:
    digest = hashlib.sha256(json.dumps([step, schema, said, seed], sort_keys=True).encode()).digest()
    good = _fill(schema, random.Random(digest), "", _span(said))
    faults = _FAULTS.get(step, _COMMON)
    stubborn = step in _STUBBORN and digest[0] % 4 == 0
    if again and not stubborn:
        return json.dumps(good)
    place = seed if step == "vocabulary_discover" else _drawn(step, digest)
    return faults[(place + again) % len(faults)](good)


def _drawn(step: str, digest: bytes) -> int:
    salt = _SALTS.get(step, 0).to_bytes(4, "big")
    return int.from_bytes(hashlib.sha256(salt + digest).digest()[:4], "big")


def _span(said: str) -> tuple[float, float]:
    """Find the seconds that a prompt speaks of."""
    found = re.search(r"from ([\d.]+) s to ([\d.]+) s", said)
    return (float(found[1]), float(found[2])) if found else (0.0, 8.0)


def _fill(  # noqa: PLR0911
    schema: dict[str, Any], rng: random.Random, name: str, span: tuple[float, float]
) -> Any:
    """Make a value that fits a schema; times ascend within the span, and boxes have their corners in order."""
    if "enum" in schema:
        return rng.choice(schema["enum"])
    match schema["type"]:
        case "object":
            return {key: _fill(field, rng, key, span) for key, field in schema["properties"].items()}
        case "array":
            if name == "bbox":
                return [rng.randint(0, 400), rng.randint(0, 400), rng.randint(500, 1000), rng.randint(500, 1000)]
            least, most = schema.get("minItems", 0), schema.get("maxItems", 4)
            count = rng.randint(max(least, min(2, most)), min(most, max(least, 4)))
            step = (span[1] - span[0]) / max(count, 1)
            cut = [(span[0] + at * step, span[0] + (at + 1) * step) for at in range(count)]
            return [_fill(schema["items"], rng, name, part) for part in cut]
        case "string":
            return f"{rng.choice(_WORDS)} {rng.choice(_PLACES)}"
        case "integer":
            return rng.randint(0, 9)
        case _:
            times = {"start": span[0], "end": span[1], "time": span[0]}
            return round(times[name], 2) if name in times else rng.randint(0, 1000)
