"""Which cameras a run looks through, and what it says of footage that cannot be read."""

from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from annotator.config.settings import SyncSettings, VlmSettings, VqaSettings
from annotator.dataset.cameras import select_cameras
from annotator.dataset.episodes import read_episodes
from annotator.dataset.metadata import Dataset, open_dataset
from annotator.errors import UsageError
from annotator_store.log.log import Log
from tests.datasets import TOP, WRIST, Recording

MakeDataset = Callable[..., Path]


@pytest.fixture
def two(make_dataset: MakeDataset, tmp_path: Path) -> Dataset:
    return open_dataset(make_dataset(tmp_path, [Recording(1), Recording(2)], cameras=(TOP, WRIST)))


def keys(
    dataset: Dataset, settings: SyncSettings, needed: Collection[str] = ("episode", "frame")
) -> tuple[list[str], list[str], list[str]]:
    cast = select_cameras(dataset, settings, needed)
    return [c.key for c in cast.episode_cameras], [c.key for c in cast.frame_cameras], [c.key for c in cast.all]


def test_the_first_camera_is_watched_and_every_camera_asked_about(two: Dataset) -> None:
    assert keys(two, SyncSettings()) == ([TOP], [TOP, WRIST], [TOP, WRIST])


def test_a_named_camera_is_watched_and_the_default_of_questions(two: Dataset) -> None:
    settings = SyncSettings(vlm=VlmSettings(camera_key=WRIST), vqa=VqaSettings(restrict_to_default_camera=True))
    assert keys(two, settings) == ([WRIST], [WRIST], [WRIST])


def test_several_named_cameras_are_watched_in_that_order(two: Dataset) -> None:
    settings = SyncSettings(vlm=VlmSettings(camera_keys=(WRIST, TOP)))
    assert keys(two, settings) == ([WRIST, TOP], [TOP, WRIST], [WRIST, TOP])


def test_cameras_that_no_module_needs_are_not_looked_at(two: Dataset) -> None:
    assert keys(two, SyncSettings(), {"episode"}) == ([TOP], [], [TOP])
    assert keys(two, SyncSettings(), {"frame"}) == ([], [TOP, WRIST], [TOP, WRIST])
    assert keys(two, SyncSettings(), set()) == ([], [], [])


@pytest.mark.parametrize("vlm", [VlmSettings(camera_key="nowhere"), VlmSettings(camera_keys=(TOP, "nowhere"))])
def test_a_camera_that_is_not_there_is_refused_with_the_names_of_those_that_are(two: Dataset, vlm: VlmSettings) -> None:
    with pytest.raises(UsageError, match=f"no such camera – .*nowhere(.|\n)*{TOP}, {WRIST}"):
        select_cameras(two, SyncSettings(vlm=vlm), {"episode"})


def test_a_camera_is_not_named_twice(two: Dataset) -> None:
    with pytest.raises(UsageError, match="named twice"):
        select_cameras(two, SyncSettings(vlm=VlmSettings(camera_keys=(TOP, TOP))), {"episode"})


def test_trouble_with_one_camera_is_none_of_the_others(two: Dataset, tmp_path: Path) -> None:
    for path in (two.root / "videos" / WRIST).rglob("*.mp4"):
        path.write_bytes(b"no film")
    with Log.open(tmp_path / "log") as log:
        one, _ = read_episodes(two, log, two.cameras, [0, 1], threads=1)
    top, wrist = two.cameras
    assert one.error_of([top]) is None
    assert one.error_of([top, wrist]) is one.footage_errors[WRIST]
    assert set(one.footage) == {TOP}


def test_an_episode_in_which_nothing_moves_is_the_same_one_whether_it_is_wanted_or_not(
    make_dataset: MakeDataset, tmp_path: Path
) -> None:
    root = make_dataset(tmp_path, [Recording(1), Recording(2, still=True)], cameras=(TOP, WRIST))
    dataset = open_dataset(root)
    with Log.open(tmp_path / "log") as log:
        found = {
            wanted: read_episodes(dataset, log, dataset.cameras[:1], wanted, threads=1)
            for wanted in ((0, 1), (0,), (1,))
        }
    assert len({tuple(one.digest for one in surveyed) for surveyed in found.values()}) == 1
    assert [len(one.footage) for one in found[1,]] == [0, 2], "what moves is known without its footage"
