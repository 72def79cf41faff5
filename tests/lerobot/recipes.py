"""Training recipes in every shape the language columns are meant for, and what each must give at a frame.

What must come out is worked out from the stored rows with plain Python, without LeRobot: a message is `said` or, where
it is to be learned, a `target`. None: the recipe has nothing to teach at this frame.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from stored import NEAR_S, Frame, Row

TASK = "<task>"
"""Stands for the task as LeRobot words it: one of the episode's wordings, drawn by itself."""


class Message(NamedTuple):
    """One message of a rendered sample."""

    role: str
    content: Any
    tool_calls: list[Any] | None = None
    target: bool = False


Expected = list[Message] | None


class Shape(NamedTuple):
    """A recipe as its file would hold it, and what it must give."""

    recipe: dict[str, Any]
    expected: Callable[[Frame], Expected]


def shapes(cameras: Sequence[str]) -> dict[str, Shape]:
    """Every recipe by its name; those for VQA once per camera, and once for whatever camera it is."""
    vqa = {f"vqa of {camera}": _vqa(camera) for camera in cameras}
    return {
        "low level": Shape(LOW_LEVEL, _low_level),
        "high level": Shape(HIGH_LEVEL, _high_level),
        "next subtask": Shape(NEXT_SUBTASK, _next_subtask),
        "memory update": Shape(MEMORY_UPDATE, _memory_update),
        "memory at every frame": Shape(MEMORY_DENSE, _memory_dense),
        "reply with a plan": Shape(REPLY_WITH_PLAN, _reply_with_plan),
        "spoken reply": Shape(SPOKEN_REPLY, _spoken_reply),
        **vqa,
        "vqa of any camera": _vqa(None),
    }


def blend(of: dict[str, Shape]) -> dict[str, Any]:
    """All of them as one blend, of which LeRobot draws a part for each frame."""
    return {"blend": {name: {"weight": 1.0, **shape.recipe} for name, shape in of.items()}}


def wordings(frame: Frame, task: str) -> set[str]:
    """What `${task}` may become at a frame of an episode whose own task is `task`."""
    return {row["content"] for row in frame.persistent if row["style"] == "task_aug"} or {task}


def _turn(role: str, content: Any = None, *, stream: str = "high_level", **more: Any) -> dict[str, Any]:
    return {"role": role, "stream": stream, **({} if content is None else {"content": content}), **more}


_TASK_TURN = _turn("user", "${task}")

LOW_LEVEL: dict[str, Any] = {
    "messages": [_TASK_TURN, _turn("assistant", "${subtask}", stream="low_level", target=True, if_present="subtask")]
}
HIGH_LEVEL: dict[str, Any] = {
    "bindings": {"noted": "emitted_at(t, style=memory)"},
    "messages": [
        _TASK_TURN,
        _turn("user", "Plan: ${plan} Memory: ${memory}"),
        _turn("assistant", "${subtask}", target=True, if_present="subtask"),
        _turn("assistant", "${noted}", target=True, if_present="noted"),
    ],
}
NEXT_SUBTASK: dict[str, Any] = {
    "bindings": {"coming": "nth_next(style=subtask, offset=1)"},
    "messages": [_TASK_TURN, _turn("assistant", "${coming}", target=True, if_present="coming")],
}


def _memory(noted: str) -> dict[str, Any]:
    before = "nth_prev(style=memory, offset=1)"
    return {
        "bindings": {"before": before, "noted": noted, "done": "nth_prev(style=subtask, offset=1)"},
        "messages": [
            _TASK_TURN,
            _turn("assistant", "Until now: ${before}", if_present="before"),
            _turn("user", "Done: ${done}", if_present="done"),
            _turn("assistant", "${noted}", target=True, if_present="noted"),
        ],
    }


MEMORY_UPDATE = _memory("emitted_at(t, style=memory)")
MEMORY_DENSE = _memory("active_at(t, style=memory)")

REPLY_WITH_PLAN: dict[str, Any] = {
    "bindings": {"before": "nth_prev(style=plan, offset=1)", "refreshed": "emitted_at(t, style=plan)"},
    "messages": [
        _TASK_TURN,
        _turn("assistant", "Plan: ${before}", if_present="before"),
        _turn("user", "${interjection}", if_present="interjection"),
        _turn("assistant", "${refreshed}", target=True, if_present="interjection", tool_calls_from="speech"),
    ],
}
SPOKEN_REPLY: dict[str, Any] = {
    "messages": [
        _TASK_TURN,
        _turn("user", "${interjection}", if_present="interjection"),
        _turn("assistant", target=True, if_present="speech", tool_calls_from="speech"),
    ]
}


def _vqa(camera: str | None) -> Shape:
    """Question and answer; with a camera's picture before the question, without a camera bound the text alone."""
    picture = [{"type": "image", "feature": camera}] if camera else []
    view = f", camera={camera}" if camera else ""
    bound = {name: f"emitted_at(t, style=vqa, role={role}{view})" for name, role in _VQA_ROLES.items()}
    asked = _turn("user", [*picture, {"type": "text", "text": "${vqa_query}"}], if_present="vqa_query")
    recipe = {"messages": [asked, _turn("assistant", "${vqa}", target=True, if_present="vqa")]}

    def expected(frame: Frame) -> Expected:
        rows = [r for r in frame.events if r["style"] == "vqa" and camera in (None, r["camera"])]
        question, answer = (_only([r["content"] for r in rows if r["role"] == role]) for role in ("user", "assistant"))
        if answer is None:
            return None
        return [Message("user", [*picture, {"type": "text", "text": question}]), _target(answer)]

    return Shape(recipe | ({"bindings": bound} if camera else {}), expected)


_VQA_ROLES = {"vqa_query": "user", "vqa": "assistant"}


# what must come out


def _low_level(frame: Frame) -> Expected:
    active = _active(frame, "subtask")
    return None if active is None else [_SAID_TASK, _target(active)]


def _high_level(frame: Frame) -> Expected:
    active, noted = _active(frame, "subtask"), _at(frame, "memory")
    taught = [_target(text) for text in (active, noted) if text is not None]
    known = f"Plan: {_active(frame, 'plan') or ''} Memory: {_active(frame, 'memory') or ''}"
    return [_SAID_TASK, Message("user", known), *taught] if taught else None


def _next_subtask(frame: Frame) -> Expected:
    coming = [row["content"] for row in _rows(frame, "subtask") if row["timestamp"] > frame.timestamp]
    return [_SAID_TASK, _target(coming[0])] if coming else None


def _memory_update(frame: Frame) -> Expected:
    return _remembered(frame, _at(frame, "memory"))


def _memory_dense(frame: Frame) -> Expected:
    return _remembered(frame, _active(frame, "memory"))


def _remembered(frame: Frame, noted: str | None) -> Expected:
    before, done = _active(frame, "memory", back=1), _active(frame, "subtask", back=1)
    known = [Message("assistant", f"Until now: {before}")] if before is not None else []
    known += [Message("user", f"Done: {done}")] if done is not None else []
    return None if noted is None else [_SAID_TASK, *known, _target(noted)]


def _reply_with_plan(frame: Frame) -> Expected:
    """The user's words, the robot's speech, and the plan of that very frame."""
    words = _only([row["content"] for row in frame.events if row["style"] == "interjection"])
    if words is None:
        return None
    refreshed = _only([row["content"] for row in _rows(frame, "plan") if row["timestamp"] == frame.timestamp])
    before = _active(frame, "plan", back=1)
    known = [Message("assistant", f"Plan: {before}")] if before is not None else []
    reply = Message("assistant", refreshed, _speech(frame) or [], target=True)  # without speech LeRobot gives no calls
    return [_SAID_TASK, *known, Message("user", words), reply]


def _spoken_reply(frame: Frame) -> Expected:
    words = [row["content"] for row in frame.events if row["style"] == "interjection"]
    speech = _speech(frame)
    heard = [Message("user", text) for text in words]
    return [_SAID_TASK, *heard, Message("assistant", None, speech, target=True)] if speech else None


_SAID_TASK = Message("user", TASK)


def _target(content: str) -> Message:
    return Message("assistant", content, target=True)


def _rows(frame: Frame, style: str) -> list[Row]:
    return sorted((row for row in frame.persistent if row["style"] == style), key=lambda row: row["timestamp"])


def _active(frame: Frame, style: str, *, back: int = 0) -> str | None:
    """What holds at the frame, or held `back` rows before it."""
    past = [row["content"] for row in _rows(frame, style) if row["timestamp"] <= frame.timestamp]
    return past[-1 - back] if len(past) > back else None


def _at(frame: Frame, style: str) -> str | None:
    """What begins here, as near as LeRobot takes it."""
    return _only([row["content"] for row in _rows(frame, style) if abs(row["timestamp"] - frame.timestamp) <= NEAR_S])


def _speech(frame: Frame) -> list[Any] | None:
    return _only([row["tool_calls"] for row in frame.events if row["tool_calls"]])


def _only(found: list[Any]) -> Any:
    """The one there is, or None. Of several, LeRobot itself must complain."""
    return found[0] if len(found) == 1 else None
