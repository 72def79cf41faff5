"""The sample dataset is honest: its physics, its pixels and its files are what they claim to be."""

import io
import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import pytest
from PIL import Image

from examples.sample import footage, motion, scene
from examples.sample.motion import FINGER_TRAVEL_M, IDLE_EPISODE, RETRY_EPISODE, Episode

ROOT = Path(__file__).parents[2]
REAL = ROOT / "tests/data/so101_static"
TOP, WRIST = "observation.images.top", "observation.images.wrist"
SEED, FPS, EPISODES = 7, 10, 4


def make(out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples/make_sample.py"), str(out), *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("sample") / "dataset"
    done = make(out, "--episodes", str(EPISODES), "--fps", str(FPS))
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def image_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("image_sample") / "dataset"
    done = make(out, "--episodes", "2", "--fps", "4", "--image-camera")
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a thread's policy is not to be read")
def test_drawing_footage_leaves_every_thread_an_ordinary_one() -> None:
    footage.encode_clip([np.zeros((64, 64, 3), np.uint8)] * 4, 30, "libsvtav1")
    policies = {os.sched_getscheduler(int(one.name)) for one in Path("/proc/self/task").iterdir()}
    assert policies == {os.SCHED_OTHER}, "whatever else the machine runs waits for real-time threads"


def info_of(root: Path) -> dict[str, Any]:
    return json.loads((root / "meta/info.json").read_text())


def episodes_of(root: Path) -> list[dict[str, Any]]:
    return pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pylist()


def shards_of(root: Path) -> list[Path]:
    return sorted((root / "data").rglob("*.parquet"))


def rows_of(root: Path) -> list[dict[str, Any]]:
    return [row for shard in shards_of(root) for row in pq.read_table(shard).to_pylist()]


def decoded(root: Path, camera: str, episode: dict[str, Any]) -> list[npt.NDArray[np.uint8]]:
    """Decode an episode's frames out of the mp4 it shares with others."""
    path = root / f"videos/{camera}/chunk-000/file-{episode[f'videos/{camera}/file_index']:03d}.mp4"
    start = round(episode[f"videos/{camera}/from_timestamp"] * FPS)
    with av.open(path) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return [np.asarray(f, np.uint8) for f in frames[start : start + episode["length"]]]


def apart(a: npt.NDArray[np.uint8], b: npt.NDArray[np.uint8]) -> float:
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


# what happens


@pytest.fixture(params=range(6))
def episode(request: pytest.FixtureRequest) -> Episode:
    return motion.simulate(request.param, seed=SEED, fps=30)


def test_the_object_moves_only_while_it_is_held_and_ends_at_rest_on_its_goal(episode: Episode) -> None:
    moved = np.abs(np.diff(episode.thing, axis=0)).max(axis=1) > 0
    assert moved.any()
    assert not (moved & ~episode.held[:-1]).any()
    assert episode.thing[0, 2] == 0.0
    np.testing.assert_allclose(episode.thing[-1], (*episode.goal_xy, episode.task.goal.surface), atol=0.002)


def test_the_hand_never_jumps(episode: Episode) -> None:
    step_m = np.linalg.norm(np.diff(episode.hand, axis=0), axis=1)
    assert step_m.max() < 0.025
    assert np.abs(np.diff(step_m)).max() < 0.004


def test_the_fingers_stop_at_the_object_while_the_command_goes_on(episode: Episode) -> None:
    width = episode.task.thing.size[0]
    np.testing.assert_array_equal(episode.opening[episode.held], width)
    np.testing.assert_allclose(episode.state[episode.held, 3], width / FINGER_TRAVEL_M, atol=0.006)
    assert episode.action[episode.held, 3].min() < width / FINGER_TRAVEL_M - 0.1


def test_an_action_is_the_next_state_as_commanded(episode: Episode) -> None:
    np.testing.assert_allclose(episode.action[:-1, :3], episode.state[1:, :3], atol=0.0015)


def test_phases_tile_the_episode_which_lasts_6_to_12_seconds(episode: Episode) -> None:
    bounds = [(p.start_frame, p.end_frame) for p in episode.phases]
    assert bounds[0][0] == 0 and bounds[-1][1] == len(episode.state)
    assert all(a[1] == b[0] for a, b in pairwise(bounds))
    assert 6 <= len(episode.state) / 30 <= 12


def test_the_object_is_held_from_the_grasp_to_the_release(episode: Episode) -> None:
    (grasp,) = (p for p in episode.phases if p.phase == "grasp" and p.outcome == "done")
    release = [p for p in episode.phases if p.phase == "release"][-1]
    held = np.flatnonzero(episode.held)
    assert grasp.start_frame < held[0] < grasp.end_frame
    assert release.start_frame <= held[-1] < release.end_frame


def test_one_episode_starts_idle() -> None:
    idle = motion.simulate(IDLE_EPISODE, seed=SEED, fps=30)
    first = idle.phases[0]
    assert first.phase == "idle" and first.end_s > 1.5
    assert np.ptp(idle.hand[: first.end_frame], axis=0).max() == 0.0


def test_one_episode_misses_its_first_grasp_and_tries_again() -> None:
    retry = motion.simulate(RETRY_EPISODE, seed=SEED, fps=30)
    missed, caught = (p for p in retry.phases if p.phase == "grasp")
    assert (missed.outcome, caught.outcome) == ("missed", "done")
    assert not retry.held[: missed.end_frame].any()
    assert retry.opening[missed.end_frame - 1] < 0.25 * retry.task.thing.size[0]


def test_tasks_differ_between_episodes_and_repeat_after_three() -> None:
    texts = [motion.simulate(i, seed=SEED, fps=FPS).task.text for i in range(6)]
    assert len(set(texts)) == 3 and texts[:3] == texts[3:]


@pytest.mark.parametrize("draw", [scene.draw_top, scene.draw_wrist])
def test_the_held_object_is_in_sight_of_both_cameras(draw: Any, episode: Episode) -> None:
    middle = int(np.median(np.flatnonzero(episode.held)))
    picture = draw(episode, middle).astype(int)
    hue = np.array(episode.task.thing.colour) / np.linalg.norm(episode.task.thing.colour)
    likeness = picture @ hue / np.linalg.norm(picture, axis=2).clip(1)
    assert (likeness > 0.995).sum() > 120


# what is stored


def test_info_counts_what_the_shards_hold(sample: Path) -> None:
    info, rows = info_of(sample), rows_of(sample)
    assert info["codebase_version"] == "v3.0"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (EPISODES, len(rows), 3)
    assert [row["index"] for row in rows] == list(range(len(rows)))
    assert info["features"]["observation.state"]["names"] == ["x", "y", "z", "gripper"]
    assert info["features"][TOP]["shape"] == [240, 320, 3]
    assert info["features"][WRIST]["shape"] == [240, 240, 3]


def test_info_has_every_key_that_lerobot_writes(sample: Path) -> None:
    ours, real = info_of(sample), info_of(REAL)
    assert set(ours) == set(real)
    assert {"timestamp", "frame_index", "episode_index", "index", "task_index"} < set(ours["features"])


def test_two_shards_hold_several_episodes_one_row_group_each(sample: Path) -> None:
    found: list[int] = []
    for shard in shards_of(sample):
        parquet = pq.ParquetFile(shard)
        groups = [set(parquet.read_row_group(i)["episode_index"].to_pylist()) for i in range(parquet.num_row_groups)]
        assert len(groups) > 1 and all(len(group) == 1 for group in groups)
        assert parquet.metadata.row_group(0).column(0).compression == "SNAPPY"
        assert parquet.metadata.row_group(0).column(0).has_dictionary_page
        found += [index for group in groups for index in group]
    assert len(shards_of(sample)) == 2 and found == list(range(EPISODES))


def test_shards_have_the_types_and_metadata_of_lerobots_own(sample: Path) -> None:
    real = pq.read_schema(REAL / "data/chunk-000/file-000.parquet")
    ours = pq.read_schema(shards_of(sample)[0])
    assert ours.names == real.names
    assert ours.types[2:] == real.types[2:]
    assert str(ours.types[0]) == str(real.types[0]).replace("[6]", "[4]")
    described, expected = (json.loads((schema.metadata or {})[b"huggingface"]) for schema in (ours, real))
    assert set(described) == set(expected)
    expected["info"]["features"]["observation.state"]["length"] = 4
    expected["info"]["features"]["action"]["length"] = 4
    assert described["info"] == expected["info"]


def test_the_episode_table_has_the_columns_of_lerobots_own(sample: Path) -> None:
    real = pq.read_schema(REAL / "meta/episodes/chunk-000/file-000.parquet").names
    ours = pq.read_schema(sample / "meta/episodes/chunk-000/file-000.parquet").names
    assert [name for name in ours if TOP not in name] == real


def test_the_task_table_is_indexed_by_text(sample: Path) -> None:
    table = pq.read_table(sample / "meta/tasks.parquet")
    assert json.loads((table.schema.metadata or {})[b"pandas"])["index_columns"] == ["task"]
    texts = {row["task_index"]: row["task"] for row in table.to_pylist()}
    rows = rows_of(sample)
    for episode in episodes_of(sample):
        first = rows[episode["dataset_from_index"]]
        assert first["episode_index"] == episode["episode_index"]
        assert episode["tasks"] == [texts[first["task_index"]]]


def test_timestamps_are_float32_frame_times_and_signals_are_the_simulated_ones(sample: Path) -> None:
    for index in range(EPISODES):
        rows = [row for row in rows_of(sample) if row["episode_index"] == index]
        times = np.array([row["timestamp"] for row in rows])
        np.testing.assert_array_equal(times, (np.arange(len(rows)) / FPS).astype(np.float32))
        truth = motion.simulate(index, seed=SEED, fps=FPS)
        np.testing.assert_array_equal(np.array([row["observation.state"] for row in rows], np.float32), truth.state)
        np.testing.assert_array_equal(np.array([row["action"] for row in rows], np.float32), truth.action)


@pytest.mark.parametrize("camera", [TOP, WRIST])
def test_each_episode_starts_on_a_key_frame_at_its_from_timestamp(sample: Path, camera: str) -> None:
    episodes = episodes_of(sample)
    for path in sorted((sample / f"videos/{camera}").rglob("*.mp4")):
        inside = [e for e in episodes if e[f"videos/{camera}/file_index"] == int(path.stem[-3:])]
        with av.open(path) as container:
            stream = container.streams.video[0]
            packets = [p for p in container.demux(stream) if p.pts is not None]
            keys = {round(float((p.pts or 0) * p.time_base), 6) for p in packets if p.is_keyframe}
        assert len(packets) == sum(e["length"] for e in inside)
        assert inside[0][f"videos/{camera}/from_timestamp"] == 0.0
        assert {round(e[f"videos/{camera}/from_timestamp"], 6) for e in inside} <= keys
        assert len(keys) >= len(packets) / 2


def test_one_camera_has_two_mp4s_and_both_share_mp4s_between_episodes(sample: Path) -> None:
    episodes = episodes_of(sample)
    assert [e[f"videos/{TOP}/file_index"] for e in episodes] == [0, 0, 0, 1]
    assert [e[f"videos/{WRIST}/file_index"] for e in episodes] == [0, 0, 0, 0]


@pytest.mark.parametrize(("camera", "draw"), [(TOP, scene.draw_top), (WRIST, scene.draw_wrist)])
def test_decoded_frames_are_the_drawn_ones_at_their_own_times(sample: Path, camera: str, draw: Any) -> None:
    for row in episodes_of(sample):
        truth = motion.simulate(row["episode_index"], seed=SEED, fps=FPS)
        frames = decoded(sample, camera, row)
        for phase in truth.phases:
            middle = (phase.start_frame + phase.end_frame) // 2
            assert apart(frames[middle], draw(truth, middle)) < 4
        (carry,) = (p for p in truth.phases if p.phase == "carry")
        middle = (carry.start_frame + carry.end_frame) // 2
        errors = [apart(frames[middle], draw(truth, middle + shift)) for shift in (-1, 0, 1)]
        assert min(errors) == errors[1]


def test_statistics_are_those_of_the_columns(sample: Path) -> None:
    stats = json.loads((sample / "meta/stats.json").read_text())
    rows = rows_of(sample)
    state = np.array([row["observation.state"] for row in rows])
    np.testing.assert_allclose(stats["observation.state"]["mean"], state.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(stats["observation.state"]["std"], state.std(axis=0), rtol=1e-6)
    np.testing.assert_allclose(stats["observation.state"]["max"], state.max(axis=0))
    assert stats["index"]["count"] == [len(rows)]
    assert np.array(stats[TOP]["mean"]).shape == (3, 1, 1)
    first = episodes_of(sample)[0]
    mean = np.mean([frame[::2, ::2].mean(axis=(0, 1)) / 255 for frame in decoded(sample, TOP, first)], axis=0)
    np.testing.assert_allclose(np.ravel(first[f"stats/{TOP}/mean"]), mean, atol=0.01)


def test_the_ground_truth_lies_where_no_reader_looks_and_names_every_phase(sample: Path) -> None:
    truth = json.loads((sample / "ground_truth.json").read_text())
    assert [e["frames"] for e in truth["episodes"]] == [e["length"] for e in episodes_of(sample)]
    assert "reach for the red block" in [p["subtask"] for p in truth["episodes"][0]["phases"]]
    assert {p.name for p in sample.iterdir()} == {"data", "ground_truth.json", "meta", "videos"}


def test_an_image_camera_is_stored_as_png_bytes_of_the_drawn_pixels(image_sample: Path) -> None:
    assert info_of(image_sample)["features"][WRIST]["dtype"] == "image"
    assert not (image_sample / f"videos/{WRIST}").exists()
    schema = pq.read_schema(shards_of(image_sample)[0])
    assert str(schema.field(WRIST).type) == "struct<bytes: binary, path: string>"
    described = json.loads((schema.metadata or {})[b"huggingface"])
    assert described["info"]["features"][WRIST] == {"_type": "Image"}
    truth = motion.simulate(0, seed=SEED, fps=4)
    for index in (0, len(truth.state) - 1):
        stored = rows_of(image_sample)[index][WRIST]
        assert stored["path"] == f"frame-{index:06d}.png"
        picture = np.asarray(Image.open(io.BytesIO(stored["bytes"])))
        np.testing.assert_array_equal(picture, scene.draw_wrist(truth, index))


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_dataset(
    image_sample: Path, tmp_path: Path
) -> None:
    options = ("--episodes", "2", "--fps", "4", "--image-camera")
    again, other = tmp_path / "again", tmp_path / "other"
    assert make(again, *options).returncode == 0
    assert make(other, *options, "--seed", "8").returncode == 0
    files = {p.relative_to(image_sample): p.read_bytes() for p in image_sample.rglob("*") if p.is_file()}
    assert files == {p.relative_to(again): p.read_bytes() for p in again.rglob("*") if p.is_file()}
    assert rows_of(other)[0]["observation.state"] != rows_of(again)[0]["observation.state"]


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    refused = make(tmp_path)
    assert refused.returncode == 2 and "not empty" in refused.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
