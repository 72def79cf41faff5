# pyright: reportMissingImports=false
"""What LeRobot's resolvers, its recipe renderer and its processor step make of the rows."""

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

from lerobot.configs import recipe as recipe_module
from lerobot.configs.recipe import MessageTurn, TrainingRecipe, load_recipe
from lerobot.datasets.language_render import active_at, render_sample
from lerobot.lerobot_types import TransitionKey
from lerobot.processor.render_messages_processor import RenderMessagesStep
from recipes import TASK, Expected, Message, blend, shapes, wordings
from refusals import LEROBOT_SAYS_NO, VERSION, CheckFailed, short
from stored import COLUMNS, Frame, Subject

THE_TASK = "the task"
"""What the renderer is given as an episode's task; only one without wordings ever shows it."""

Sample = dict[str, Any]


# single questions, at the frames that are sampled


def subtasks(subject: Subject) -> str:
    """In an episode with subtasks, `active_at` gives exactly one at every sampled frame."""
    counted: Counter[str] = Counter()
    for place in subject.sampled:
        frame = subject.frames[place]
        if not any(row["style"] == "subtask" for row in frame.persistent):
            counted["frames of episodes without subtasks"] += 1
            continue
        if active_at(frame.timestamp, persistent=frame.persistent, style="subtask") is None:
            raise CheckFailed(f"{frame} – none at {frame.timestamp:.3f} s")
        counted["frames"] += 1
    return ", ".join(f"{count} {what}" for what, count in sorted(counted.items())) or "no frames"


def defaults(subject: Subject) -> str:
    """The bindings that LeRobot resolves for every recipe, whatever it asks, have one answer or none.

    VQA of two cameras on one frame fails here: a recipe that names no camera raises, even if it is not about VQA.
    """
    return _probed(subject, {name: _probe(spec) for name, spec in recipe_module.DEFAULT_BINDINGS.items()})


def bindings(subject: Subject) -> str:
    """The neighbours of each persistent style present, and VQA camera by camera, have one answer or none."""
    sampled = [subject.frames[place] for place in subject.sampled]
    lasting = {row["style"] for frame in sampled for row in frame.persistent} - {"task_aug"}
    cameras = _cameras(sampled)
    asked = [f"emitted_at(t, style={style})" for style in sorted(lasting)]
    asked += [f"{way}(style={style}, offset=1)" for style in sorted(lasting) for way in ("nth_prev", "nth_next")]
    one_view = f", camera={cameras[0]}" if cameras else ""
    probes = {question: _probe(question, one_view) for question in asked}
    for camera, role in product(cameras, ("user", "assistant")):
        view = f", camera={camera}"
        probes[f"vqa of {role}{view}"] = _probe(f"emitted_at(t, style=vqa, role={role}{view})", view)
    return _probed(subject, probes)


def _cameras(frames: list[Frame]) -> list[str]:
    return sorted({row["camera"] for frame in frames for row in frame.events if row["style"] == "vqa"})


def _probe(question: str, view: str = "") -> TrainingRecipe:
    """Make a recipe that asks one question; speech has no text, so its calls are what it gives.

    With a `view`, the default VQA bindings look at that camera only.
    """
    calls = "probed" if "tool_name" in question else None
    turn = MessageTurn("assistant", None if calls else "${probed}", "high_level", True, "probed", calls)
    bound = {"vqa": "assistant", "vqa_query": "user"} if view else {}
    views = {name: f"emitted_at(t, style=vqa, role={role}{view})" for name, role in bound.items()}
    return TrainingRecipe(messages=[turn], bindings={"probed": question, **views})


def _probed(subject: Subject, probes: Mapping[str, TrainingRecipe]) -> str:
    rendered: Counter[str] = Counter()
    for place, (name, probe) in product(subject.sampled, probes.items()):
        frame = subject.frames[place]
        rendered[name] += _tried(name, frame, lambda p=probe, f=frame: _render(f, p)) is not None
    answered = sum(1 for count in rendered.values() if count)
    return f"{answered} of {len(probes)} give something at {len(subject.sampled)} frames, {rendered.total()} samples"


# whole recipes, at every frame of a few episodes


def shipped(subject: Subject) -> str:
    """The recipes in the installed package, and in `--recipes`, render every frame of the few episodes.

    A blend is rendered as it is and part by part, since the renderer draws one part per frame and all have to work.
    """
    own = Path(recipe_module.__file__).parent / "recipes"
    files = [path for folder in (own, subject.recipes) if folder for path in sorted(folder.glob("*.yaml"))]
    if not files:
        return f"none: lerobot {VERSION} has no recipe files; give --recipes DIR to render others"
    rendered: Counter[str] = Counter()
    for path in files:
        recipe = load_recipe(path)
        for name, part in {"whole": recipe, **(recipe.blend or {})}.items():
            rendered[f"{path.stem}/{name}"] = sum(sample is not None for _, sample in _walk(subject, name, part))
    return f"{len(files)} files, {_counts(subject, rendered)}"


def written(subject: Subject) -> str:
    """Our own recipes render every frame of the few episodes, and give what the stored rows say they must."""
    rendered: Counter[str] = Counter()
    of = shapes(_cameras(subject.frames))
    for name, shape in of.items():
        recipe = TrainingRecipe.from_dict(shape.recipe)
        rendered[name] = sum(
            _same(name, frame, sample, shape.expected) for frame, sample in _walk(subject, name, recipe)
        )
    if subject.full and (empty := [name for name in of if not rendered[name]]):
        raise CheckFailed(f"nothing comes of {', '.join(empty)} at any frame")
    return _counts(subject, rendered)


def blended(subject: Subject) -> str:
    """All our recipes as one blend, through the processor step that training uses, give one part's sample or none."""
    of = shapes(_cameras(subject.frames))
    step = RenderMessagesStep(TrainingRecipe.from_dict(blend(of)), dataset_ctx={"task": THE_TASK})
    rendered = 0
    for place in subject.whole:
        frame = subject.frames[place]
        found = _tried("the blend", frame, lambda f=frame: step(_transition(f)))
        got = found and _messages(frame, found[TransitionKey.COMPLEMENTARY_DATA])
        if got not in [shape.expected(frame) for shape in of.values()]:
            raise CheckFailed(f"the blend at {frame} – {short(str(got))}, which is none of its parts")
        rendered += got is not None
    return f"{rendered} samples at {len(subject.whole)} frames"


def _walk(subject: Subject, name: str, recipe: TrainingRecipe) -> list[tuple[Frame, Sample | None]]:
    frames = [subject.frames[place] for place in subject.whole]
    return [(frame, _tried(name, frame, lambda f=frame: _render(f, recipe))) for frame in frames]


def _counts(subject: Subject, rendered: Counter[str]) -> str:
    each = ", ".join(f"{name} {count}" for name, count in rendered.items())
    episodes = len({subject.frames[place].episode for place in subject.whole})
    return f"{len(subject.whole)} frames of {episodes} episodes: {each}"


def _same(name: str, frame: Frame, sample: Sample | None, expected: Callable[[Frame], Expected]) -> bool:
    must, got = expected(frame), sample and _messages(frame, sample)
    if got != must:
        pairs = zip_longest(got or [], must or [])
        seen, wanted = next(((a, b) for a, b in pairs if a != b), (got, must))
        raise CheckFailed(f"{name} at {frame} – {short(str(seen))}, but the rows say {short(str(wanted))}")
    return got is not None


def _messages(frame: Frame, sample: Sample) -> list[Message]:
    """What was rendered, any right wording of the task replaced by its placeholder."""
    tasks, targets = wordings(frame, THE_TASK), set(sample["target_message_indices"])
    return [
        Message(
            role=message["role"],
            content=TASK if number == 0 and str(message.get("content")) in tasks else message.get("content"),
            tool_calls=message.get("tool_calls"),
            target=number in targets,
        )
        for number, message in enumerate(sample["messages"])
    ]


# LeRobot's two ways in


def _tried(name: str, frame: Frame, render: Callable[[], Any]) -> Any:
    try:
        return render()
    except LEROBOT_SAYS_NO as cause:
        raise CheckFailed(f"{name} at {frame} – {short(str(cause))}") from cause


def _render(frame: Frame, recipe: TrainingRecipe) -> Sample | None:
    return render_sample(
        recipe=recipe,
        persistent=frame.persistent,
        events=frame.events,
        t=frame.timestamp,
        sample_idx=frame.row,
        dataset_ctx={"task": THE_TASK},
    )


def _transition(frame: Frame) -> dict[Any, Any]:
    rows = dict(zip(COLUMNS, (frame.persistent, frame.events), strict=True))
    return {TransitionKey.COMPLEMENTARY_DATA: {**rows, "timestamp": frame.timestamp, "index": frame.row}}
