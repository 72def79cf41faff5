# pyright: reportMissingImports=false
# ruff: noqa: E402, the environment must be set before lerobot loads
"""Ask LeRobot itself whether it can read and train on an annotated dataset.

    python tests/lerobot/check_lerobot.py DATASET_ROOT [--repo-id local/x] [--frames-per-episode 12] [--recipes DIR]

Runs in an environment of its own, with `lerobot[dataset]` on Python 3.12 or newer; see docs/check_lerobot.md.
Prints one line per check and exits with 0 if all hold, else 1. What pyarrow reads from the shards is the reference.
"""

import argparse
import contextlib
import json
import os
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

CACHE = tempfile.TemporaryDirectory(prefix="check-lerobot-")
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": CACHE.name}

import pyarrow.parquet as pq
from datasets.exceptions import DatasetsError
from lerobot.configs import recipe as recipe_module
from lerobot.configs.recipe import MessageTurn, TrainingRecipe, load_recipe
from lerobot.datasets import language
from lerobot.datasets.language_render import active_at, render_sample
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.streaming_dataset import StreamingLeRobotDataset
from stored import COLUMNS, Frame, Row, sample, shards
from stored import frames as stored_frames

VERSION = version("lerobot")

LEROBOT_SAYS_NO = (ValueError, TypeError, LookupError, AttributeError, OSError, RuntimeError, DatasetsError)
"""What LeRobot and `datasets` raise over a dataset they cannot use; all of it is a failed check, none a crash."""


class CheckFailed(Exception):
    """The dataset is not what LeRobot needs; the message says where."""


class Subject(NamedTuple):
    """The dataset under check. `sampled` are indices into `frames`."""

    root: Path
    repo_id: str
    frames: list[Frame]
    sampled: list[int]
    recipes: Path | None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks in order and print a line for each."""
    parser = argparse.ArgumentParser(description="Check an annotated dataset with LeRobot itself.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--repo-id", default="local/checked")
    parser.add_argument("--frames-per-episode", type=int, default=12)
    parser.add_argument("--recipes", type=Path, help="a folder of recipe files to render beside the shipped ones")
    args = parser.parse_args(argv)
    passed = _report("features are declared", lambda: declared(args.root))
    passed &= _report("every shard has both columns", lambda: columns(args.root))
    if not passed:  # nothing below can be read without them, but LeRobot's own word on it is worth a line
        _report("LeRobot loads the dataset", lambda: _loads(args.root, args.repo_id))
        return 1
    frames = [frame for shard in shards(args.root) for frame in stored_frames(shard)]
    subject = Subject(args.root, args.repo_id, frames, sample(frames, args.frames_per_episode), args.recipes)
    checks: list[tuple[str, Callable[[Subject], str]]] = [
        ("LeRobot loads the dataset", lambda s: _loads(s.root, s.repo_id)),
        ("items come back as stored", items),
        ("streaming gives the same", streaming),
        ("tools are declared", tools),
        ("one subtask is active", subtasks),
        ("every binding resolves", bindings),
        ("default bindings resolve", defaults),
        ("shipped recipes render", recipes),
    ]
    results = [_report(name, lambda check=check: check(subject)) for name, check in checks]
    return 0 if all(results) else 1


def _report(name: str, check: Callable[[], str]) -> bool:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results; LeRobot may talk
            detail = check()
    except CheckFailed as failure:
        print(f"FAIL  {name}: {failure}", flush=True)
        return False
    except LEROBOT_SAYS_NO as cause:
        print(f"FAIL  {name}: {type(cause).__name__}: {_short(str(cause))}", flush=True)
        return False
    print(f"ok    {name}: {detail}", flush=True)
    return True


def _short(text: str) -> str:
    return textwrap.shorten(text, 300, placeholder=" ...")


# the shards, read with pyarrow


def declared(root: Path) -> str:
    """`meta/info.json` declares both columns as LeRobot writes them."""
    features = json.loads((root / "meta/info.json").read_text())["features"]
    for name, expected in language.language_feature_info().items():
        found = features.get(name)
        if found is None or (found["dtype"], tuple(found["shape"])) != (expected["dtype"], expected["shape"]):
            raise CheckFailed(f"meta/info.json – features.{name}: {found}, not {expected}")
    return ", ".join(COLUMNS)


def columns(root: Path) -> str:
    """Each shard has both columns with LeRobot's Arrow types."""
    types = (language.language_persistent_arrow_type(), language.language_events_arrow_type())
    for shard in shards(root):
        schema = pq.read_schema(shard)
        for name, expected in zip(COLUMNS, types, strict=True):
            if name not in schema.names:
                raise CheckFailed(f"{shard.relative_to(root)} has no column {name}")
            if schema.field(name).type != expected:
                raise CheckFailed(f"{shard.relative_to(root)} – {name} is {schema.field(name).type}, not {expected}")
    return f"{len(shards(root))} shards"


# LeRobot's readers


def _loads(root: Path, repo_id: str) -> str:
    dataset = _open(root, repo_id)
    return f"lerobot {VERSION}, {dataset.num_episodes} episodes, {dataset.num_frames} frames"


def _open(root: Path, repo_id: str) -> Any:
    return LeRobotDataset(repo_id, root=root, video_backend="pyav")  # the backend that needs no system libraries


def items(subject: Subject) -> str:
    """Sampled items decode, cameras and all, and every frame's language is what the shard holds."""
    dataset = _open(subject.root, subject.repo_id)
    evenly = subject.sampled[:: max(1, len(subject.sampled) // 60)]
    for place in evenly:
        _compare(subject.frames[place], dataset[place], "item")
    rows = dataset.hf_dataset.with_format(None).select_columns(["index", *COLUMNS])
    says = _compare_all(subject.frames, rows, "row")
    return f"{len(evenly)} whole items, language of {len(subject.frames)} frames, {says} tool calls"


def streaming(subject: Subject) -> str:
    """LeRobot's streaming dataset hands out the same language.

    Its source is read directly: its iterator also asks for video at `index / fps`, which lies outside
    the file as soon as a camera has a second mp4.
    """
    dataset = StreamingLeRobotDataset(subject.repo_id, root=subject.root, shuffle=False)
    says = _compare_all(subject.frames, dataset.hf_dataset, "streamed row")
    return f"{len(subject.frames)} frames, {says} tool calls"


def _compare_all(frames: Sequence[Frame], rows: Iterable[Row], what: str) -> int:
    says = 0
    for frame, row in zip(frames, rows, strict=True):
        _compare(frame, row, what)
        says += _check_calls(frame, [*row[COLUMNS[0]], *row[COLUMNS[1]]])
    return says


def _compare(frame: Frame, item: Row, what: str) -> None:
    if int(item["index"]) != frame.row:
        raise CheckFailed(f"{what} of {frame} has index {int(item['index'])}")
    for name, expected in zip(COLUMNS, (frame.persistent, frame.events), strict=True):
        if item.get(name) != expected:
            got, held = _short(str(item.get(name))), _short(str(expected))
            raise CheckFailed(f"{what} of {frame} – {name}: {got}, but the shard holds {held}")


def _check_calls(frame: Frame, rows: Iterable[Row]) -> int:
    """Count tool calls; each must be a dict that names a function and, if it speaks, has a text."""
    calls = [call for row in rows for call in row["tool_calls"] or ()]
    for call in calls:
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("arguments"), dict):
            raise CheckFailed(f"{frame} – tool call is {type(call).__name__}: {call}")
        if function["name"] == "say" and not isinstance(function["arguments"].get("text"), str):
            raise CheckFailed(f"{frame} – say without a text: {call}")
    return len(calls)


def tools(subject: Subject) -> str:
    """Each tool that a row calls is among the dataset's own tools."""
    info = json.loads((subject.root / "meta/info.json").read_text())
    known = {tool["function"]["name"] for tool in info.get("tools") or ()}
    rows = [row for frame in subject.frames for row in frame.events]
    called = {call["function"]["name"] for row in rows for call in row["tool_calls"] or ()}
    if called - known:
        raise CheckFailed(f"meta/info.json – rows call {sorted(called)}, tools declares {sorted(known)}")
    return ", ".join(sorted(called)) or "none called"


# LeRobot's renderer


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
    return _render_all(subject, {name: _probe(spec) for name, spec in recipe_module.DEFAULT_BINDINGS.items()})


def bindings(subject: Subject) -> str:
    """The neighbours of each persistent style present, and VQA camera by camera, have one answer or none."""
    sampled = [subject.frames[place] for place in subject.sampled]
    lasting = {row["style"] for frame in sampled for row in frame.persistent} - {"task_aug"}
    cameras = {row["camera"] for frame in sampled for row in frame.events if row["style"] == "vqa"}
    asked = [f"emitted_at(t, style={style})" for style in sorted(lasting)]
    asked += [f"{way}(style={style}, offset=1)" for style in sorted(lasting) for way in ("nth_prev", "nth_next")]
    one_view = f", camera={min(cameras)}" if cameras else ""
    probes = {question: _probe(question, one_view) for question in asked}
    for camera, role in product(sorted(cameras), ("user", "assistant")):
        view = f", camera={camera}"
        probes[f"vqa of {role}{view}"] = _probe(f"emitted_at(t, style=vqa, role={role}{view})", view)
    return _render_all(subject, probes)


def recipes(subject: Subject) -> str:
    """The recipes in the installed package, and in `--recipes`, render the sampled frames."""
    shipped = Path(recipe_module.__file__).parent / "recipes"
    files = [path for folder in (shipped, subject.recipes) if folder for path in sorted(folder.glob("*.yaml"))]
    if not files:
        return f"none: lerobot {VERSION} ships no recipe files; give --recipes DIR to render your own"
    parts = {f"{path.stem}/{name}": part for path in files for name, part in _parts(load_recipe(path)).items()}
    return f"{len(files)} files: {_render_all(subject, parts)}"


def _probe(question: str, view: str = "") -> TrainingRecipe:
    """Make a recipe that asks one question; speech has no text, so its calls are what it gives.

    With a `view`, the default VQA bindings look at that camera only.
    """
    calls = "probed" if "tool_name" in question else None
    turn = MessageTurn("assistant", None if calls else "${probed}", "high_level", True, "probed", calls)
    bound = {"vqa": "assistant", "vqa_query": "user"} if view else {}
    views = {name: f"emitted_at(t, style=vqa, role={role}{view})" for name, role in bound.items()}
    return TrainingRecipe(messages=[turn], bindings={"probed": question, **views})


def _parts(recipe: TrainingRecipe) -> dict[str, TrainingRecipe]:
    """Take a blend apart, since the renderer draws one part per frame and all have to work."""
    return recipe.blend or {"whole": recipe}


def _render_all(subject: Subject, parts: dict[str, TrainingRecipe]) -> str:
    rendered: Counter[str] = Counter()
    for place in subject.sampled:
        frame = subject.frames[place]
        for name, part in parts.items():
            try:
                sample = _render(frame, part)
            except LEROBOT_SAYS_NO as cause:
                raise CheckFailed(f"{name} at {frame} – {_short(str(cause))}") from cause
            rendered[name] += sample is not None
    answered = sum(1 for count in rendered.values() if count)
    return f"{answered} of {len(parts)} give something at {len(subject.sampled)} frames, {rendered.total()} samples"


def _render(frame: Frame, part: TrainingRecipe) -> dict[str, Any] | None:
    return render_sample(
        recipe=part,
        persistent=frame.persistent,
        events=frame.events,
        t=frame.timestamp,
        sample_idx=frame.row,
        dataset_ctx={"task": "the task"},
    )


if __name__ == "__main__":
    sys.exit(main())
