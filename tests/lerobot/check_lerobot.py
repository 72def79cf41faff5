# pyright: reportMissingImports=false
# ruff: noqa: E402, the environment must be set before lerobot loads
"""Ask LeRobot itself whether it can read and train on an annotated dataset.

    python tests/lerobot/check_lerobot.py DATASET_ROOT [--full] [--episodes 3] [--frames-per-episode 12] [--recipes DIR]
        [--staging DIR]

Runs in an environment of its own, with `lerobot[dataset]` on Python 3.12 or newer; see docs/check_lerobot.md.
Prints one line per check and exits with 0 if all hold, else 1. What pyarrow reads from the shards is the reference.
"""

import argparse
import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

CACHE = tempfile.TemporaryDirectory(prefix="check-lerobot-")
os.environ |= {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": CACHE.name}

import pyarrow.parquet as pq
import rendering
import staged
from lerobot.datasets import language
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.streaming_dataset import StreamingLeRobotDataset
from refusals import LEROBOT_SAYS_NO, VERSION, CheckFailed, short
from stored import COLUMNS, Frame, Row, Subject, richest, sample, shards
from stored import frames as stored_frames


def main(argv: Sequence[str] | None = None) -> int:
    """Run the checks in order and print a line for each."""
    args = _arguments(argv)
    passed = _report("features are declared", lambda: declared(args.root))
    passed &= _report("every shard has both columns", lambda: columns(args.root))
    if not passed:  # nothing below can be read without them, but LeRobot's own word on it is worth a line
        _report("LeRobot loads the dataset", lambda: _loads(args.root, args.repo_id))
        return 1
    frames = [frame for shard in shards(args.root) for frame in stored_frames(shard)]
    sampled, whole = sample(frames, args.frames_per_episode), richest(frames, args.episodes)
    subject = Subject(args.root, args.repo_id, frames, sampled, whole, args.recipes, args.full, args.staging)
    checks: list[tuple[str, Callable[[Subject], str]]] = [
        ("LeRobot loads the dataset", lambda s: _loads(s.root, s.repo_id)),
        ("items come back as stored", items),
        ("streaming gives the same", streaming),
        ("tools are declared", tools),
        ("one subtask is active", rendering.subtasks),
        ("every binding resolves", rendering.bindings),
        ("default bindings resolve", rendering.defaults),
        ("recipe files render", rendering.shipped),
        ("our recipes give what they should", rendering.written),
        ("so they do as a blend", rendering.blended),
        *([("the export holds for LeRobot's validator", staged.staging)] if args.staging else ()),
    ]
    results = [_report(name, lambda check=check: check(subject)) for name, check in checks]
    return 0 if all(results) else 1


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Check an annotated dataset with LeRobot itself.")
    parser.add_argument("root", type=Path)
    parser.add_argument("--repo-id", default="local/checked")
    parser.add_argument("--frames-per-episode", type=int, default=12)
    parser.add_argument("--episodes", type=int, default=3, help="episodes of which every frame is rendered")
    parser.add_argument("--recipes", type=Path, help="a folder of recipe files to render beside the installed ones")
    parser.add_argument("--staging", type=Path, help="the folder of `annotator export --staging`, to be validated")
    parser.add_argument("--full", action="store_true", help="every style is there: no recipe may come out empty")
    return parser.parse_args(argv)


def _report(name: str, check: Callable[[], str]) -> bool:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout is for results; LeRobot may talk
            detail = check()
    except CheckFailed as failure:
        print(f"FAIL  {name}: {failure}", flush=True)
        return False
    except LEROBOT_SAYS_NO as cause:
        print(f"FAIL  {name}: {type(cause).__name__}: {short(str(cause))}", flush=True)
        return False
    print(f"ok    {name}: {detail}", flush=True)
    return True


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
    """LeRobot's streaming dataset hands out the same language, from its source and through its iterator.

    The iterator runs on the dataset without its videos: it asks for them at `index / fps`, which lies outside the
    file as soon as a camera has a second mp4.
    """
    dataset = StreamingLeRobotDataset(subject.repo_id, root=subject.root, shuffle=False)
    says = _compare_all(subject.frames, dataset.hf_dataset, "streamed row")
    with tempfile.TemporaryDirectory() as folder:
        root = _without_videos(subject.root, Path(folder))
        blind = StreamingLeRobotDataset(subject.repo_id, root=root, shuffle=False)
        streamed = sorted(({"index": int(item["index"])} | _language(item) for item in blind), key=_index)
    _compare_all(subject.frames, streamed, "streamed item")
    return f"{len(subject.frames)} rows, {len(streamed)} items, {says} tool calls"


def _without_videos(root: Path, folder: Path) -> Path:
    """Make a dataset of the same shards whose info declares no videos."""
    shutil.copytree(root / "meta", folder / "meta")
    (folder / "data").symlink_to((root / "data").resolve())
    info = json.loads((root / "meta/info.json").read_text())
    kept = {name: feature for name, feature in info["features"].items() if feature["dtype"] != "video"}
    (folder / "meta/info.json").write_text(json.dumps(info | {"features": kept, "video_path": None}))
    return folder


def _language(item: Row) -> Row:
    return {name: item.get(name) for name in COLUMNS}


def _index(row: Row) -> int:
    return row["index"]


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
            got, held = short(str(item.get(name))), short(str(expected))
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


if __name__ == "__main__":
    sys.exit(main())
