"""Write a small LeRobot v3.0 dataset: a drawn robot arm that puts coloured objects where it is told to.

    python examples/make_sample.py OUT [--episodes 6] [--seed 7] [--fps 30] [--image-camera]

The same seed gives the same dataset. What truly happens, phase by phase, is in OUT/ground_truth.json,
which no reader of the dataset looks at. `gripper` is 1 open, 0 closed; x, y and z are metres.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import accumulate, product, repeat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import msgspec
from sample import footage, layout, scene
from sample.footage import TOP, WRIST, Camera, Film
from sample.layout import Recorded
from sample.motion import Episode, simulate


def main(argv: Sequence[str] | None = None) -> None:
    """Parse the command line and write the dataset."""
    parser = argparse.ArgumentParser(description="Write a small sample dataset in LeRobot's v3.0 format.")
    parser.add_argument("out", type=Path, help="the dataset's folder; must be empty or not exist yet")
    parser.add_argument("--episodes", type=int, default=6)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--image-camera", action="store_true", help="store the wrist camera as PNGs in the shards")
    args = parser.parse_args(argv)
    if args.out.exists() and any(args.out.iterdir()):
        parser.error(f"{args.out} is not empty; choose another folder or remove it")
    if args.episodes < 1 or args.fps < 1:
        parser.error("--episodes and --fps must be at least 1")
    episodes = [simulate(i, seed=args.seed, fps=args.fps) for i in range(args.episodes)]
    write_dataset(args.out, episodes, fps=args.fps, image_camera=args.image_camera)
    frames = sum(len(e.state) for e in episodes)
    print(f"{args.out}: {len(episodes)} episodes, {frames} frames, {frames / args.fps:.1f} s", file=sys.stderr)


def write_dataset(root: Path, episodes: Sequence[Episode], *, fps: int, image_camera: bool) -> None:
    """Draw the episodes and write every file of the dataset."""
    cameras = cameras_for(len(episodes), image_camera=image_camera)
    texts = list(dict.fromkeys(e.task.text for e in episodes))
    shards = split(len(episodes), 1, 2)
    encoder = footage.choose_encoder()
    recorded = _record(episodes, texts, cameras, fps, encoder)
    layout.write_shards(root, recorded, shards)
    described = [(camera, _write_videos(root, camera, recorded, encoder)) for camera in cameras]
    layout.write_episodes(root, recorded, texts, shards, cameras)
    layout.write_tasks(root, texts)
    layout.write_info(root, recorded, len(texts), described)
    layout.write_stats(root, recorded)
    truth = msgspec.json.encode({"fps": fps, "episodes": [_truth(e) for e in episodes]})
    (root / "ground_truth.json").write_bytes(msgspec.json.format(truth, indent=2) + b"\n")


def cameras_for(episodes: int, *, image_camera: bool) -> list[Camera]:
    """Lay out the footage: the fixed camera in two files that break elsewhere than the shards, the wrist's in one."""
    top_height, top_width = scene.TOP_PX[1], scene.TOP_PX[0]
    wrist = () if image_camera else (range(episodes),)
    return [
        Camera(TOP, top_height, top_width, split(episodes, 2, 3)),
        Camera(WRIST, scene.WRIST_PX[1], scene.WRIST_PX[0], wrist),
    ]


def split(count: int, part: int, whole: int) -> tuple[range, ...]:
    """Break `count` episodes into two files after about `part`/`whole` of them; a single episode gets one file."""
    middle = -(-count * part // whole)
    return tuple(files for files in (range(middle), range(middle, count)) if files)


def _record(
    episodes: Sequence[Episode], texts: Sequence[str], cameras: Sequence[Camera], fps: int, encoder: str
) -> list[Recorded]:
    """Film every episode through every camera, one process per core."""
    films = _film_all(list(product(episodes, cameras)), fps, encoder)
    rows = accumulate((len(e.state) for e in episodes), initial=0)
    return [
        Recorded(
            episode=episode,
            task_index=texts.index(episode.task.text),
            first_row=row,
            fps=fps,
            films={camera.key: next(films) for camera in cameras},
        )
        for episode, row in zip(episodes, rows, strict=False)
    ]


def _film_all(takes: Sequence[tuple[Episode, Camera]], fps: int, encoder: str) -> Iterator[Film]:
    with ProcessPoolExecutor(min(len(takes), os.cpu_count() or 1), mp_context=get_context("spawn")) as pool:
        episodes, cameras = zip(*takes, strict=True)
        yield from pool.map(footage.film, episodes, cameras, repeat(fps), repeat(encoder))


def _write_videos(root: Path, camera: Camera, recorded: Sequence[Recorded], encoder: str) -> dict[str, Any]:
    """Write a camera's mp4 files and describe the first; an image camera has none."""
    info: dict[str, Any] = {}
    for file_index, episodes in enumerate(camera.files):
        path = root / layout.VIDEO_PATH.format(video_key=camera.key, chunk_index=0, file_index=file_index)
        footage.join_clips([recorded[i].films[camera.key].clip for i in episodes], path)
        info = info or footage.describe_video(path, encoder)
    return info


def _truth(episode: Episode) -> dict[str, Any]:
    return {
        "episode_index": episode.index,
        "task": episode.task.text,
        "object": episode.task.thing.name,
        "goal": episode.task.goal.name,
        "bystander": episode.bystander.name,
        "frames": len(episode.state),
        "phases": episode.phases,
    }


if __name__ == "__main__":
    main()
