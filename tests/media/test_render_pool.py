"""Pictures of an episode: drawn once, together, off the event loop, and let go of."""

import asyncio
import gc
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest

from annotator.errors import FootageError
from annotator.media.clips import Clip
from annotator.media.picture import Picture
from annotator.media.render_pool import RenderPool
from annotator_store.digests import Digest
from annotator_store.keys import MediaItem, Render
from tests.media.films import clip, film, packet_places, render

FOOTAGE = Digest("0" * 32)
OTHER = Digest("1" * 32)


class Counter:
    def __init__(self) -> None:
        self.frames = 0

    def __call__(self, frames: int) -> None:
        self.frames += frames


@pytest.fixture
def episode(tmp_path: Path) -> Clip:
    return clip(film(tmp_path / "a.mp4", range(60), gop=250, options={"bf": "0"}), 0, 60)


def item(episode: Clip, *positions: int, footage: Digest = FOOTAGE, **more: Any) -> MediaItem:
    times = tuple(float(episode.frame_timestamps[position]) for position in positions)
    return MediaItem(footage=footage, timestamps=times, render=Render(kind="sheet", width_px=64, **more))


def test_an_identical_item_is_drawn_once_for_all_who_ask(episode: Clip) -> None:
    async def ask() -> None:
        count = Counter()
        with RenderPool(2) as pool, pool.open({FOOTAGE: episode}, count) as pictures:
            same = await asyncio.gather(*(pictures.get(item(episode, 0, 59)) for _ in range(20)))
            assert all(picture is same[0] for picture in same)
            assert count.frames == 60
            assert await pictures.get(item(episode, 0, 59)) is same[0]
            assert count.frames == 60
            assert same[0] == render(item(episode, 0, 59), episode)

    asyncio.run(ask())


def test_what_is_asked_for_together_is_decoded_in_one_pass(episode: Clip) -> None:
    async def ask() -> None:
        count = Counter()
        with RenderPool(2) as pool, pool.open({FOOTAGE: episode}, count) as pictures:
            items = [item(episode, start, start + 9, columns=2) for start in range(0, 60, 10)]
            drawn = await asyncio.gather(*(pictures.get(item) for item in items))
            assert [picture.timestamps for picture in drawn] == [item.timestamps for item in items]
            assert count.frames == 60

    asyncio.run(ask())


def test_the_event_loop_goes_on_while_pictures_are_drawn(episode: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing, go_on = threading.Event(), threading.Event()

    def slow(*given: Any) -> Any:
        drawing.set()
        assert go_on.wait(10)
        return real(*given)

    from annotator.media import render_pool as module

    real = module.render_all
    monkeypatch.setattr(module, "render_all", slow)

    async def ask() -> None:
        with RenderPool(1) as pool, pool.open({FOOTAGE: episode}) as pictures:
            asked = asyncio.create_task(pictures.get(item(episode, 0)))
            while not drawing.is_set():  # noqa: ASYNC110 - set by another thread
                await asyncio.sleep(0.001)
            go_on.set()
            assert (await asked).jpegs

    asyncio.run(ask())


def test_one_asker_that_is_cancelled_does_not_disturb_the_others(episode: Clip) -> None:
    async def ask() -> None:
        with RenderPool(1) as pool, pool.open({FOOTAGE: episode}) as pictures:
            first, second = (asyncio.create_task(pictures.get(item(episode, 0, 30))) for _ in range(2))
            await asyncio.sleep(0)
            first.cancel()
            assert (await second).jpegs
            with pytest.raises(asyncio.CancelledError):
                await first

    asyncio.run(ask())


def test_a_damaged_frame_fails_only_the_pictures_that_hold_it(tmp_path: Path) -> None:
    path = film(tmp_path / "a.mp4", range(30))
    offset, size = packet_places(path)[10]
    data = bytearray(path.read_bytes())
    data[offset + 4 : offset + size] = bytes(size - 4)
    path.write_bytes(data)
    episode = clip(path, 0, 30)

    async def ask() -> None:
        rows = ((0, 9), (4, 10), (12, 29))
        with RenderPool(1) as pool, pool.open({FOOTAGE: episode}) as pictures:
            good, bad, fine = await asyncio.gather(
                *(pictures.get(item(episode, *positions)) for positions in rows),
                return_exceptions=True,
            )
            assert not isinstance(good, BaseException) and not isinstance(fine, BaseException)
            assert isinstance(bad, FootageError) and str(path) in str(bad)

    asyncio.run(ask())


def test_footage_that_cannot_be_opened_fails_every_asker(tmp_path: Path, episode: Clip) -> None:
    async def ask() -> None:
        gone = clip(tmp_path / "gone.mp4", 0, 60)
        with RenderPool(1) as pool, pool.open({FOOTAGE: episode, OTHER: gone}) as pictures:
            picture, error = await asyncio.gather(
                pictures.get(item(episode, 0)),
                pictures.get(item(episode, 0, footage=OTHER)),
                return_exceptions=True,
            )
            assert not isinstance(picture, BaseException)
            assert isinstance(error, FootageError) and "missing" in str(error)

    asyncio.run(ask())


def test_footage_of_another_episode_is_refused(episode: Clip) -> None:
    async def ask() -> None:
        refused = pytest.raises(FootageError, match="not this episode's")
        with RenderPool(1) as pool, pool.open({FOOTAGE: episode}) as pictures, refused:
            await pictures.get(item(episode, 0, footage=OTHER))

    asyncio.run(ask())


def test_closing_lets_go_of_every_picture(episode: Clip) -> None:
    def pictures_alive() -> int:
        gc.collect()
        return sum(isinstance(thing, Picture) for thing in gc.get_objects())

    async def ask() -> None:
        before = pictures_alive()
        with RenderPool(1) as pool:
            pictures = pool.open({FOOTAGE: episode})
            await asyncio.gather(*(pictures.get(item(episode, start)) for start in range(5)))
            assert pictures_alive() == before + 5
            pictures.close()
            await asyncio.sleep(0)
            assert pictures_alive() == before
            with pytest.raises(AssertionError, match="gone"):
                await pictures.get(item(episode, 0))

    asyncio.run(ask())


def test_a_single_frame_is_let_go_of_once_everyone_who_waited_has_it(episode: Clip) -> None:
    def pictures_alive() -> int:
        gc.collect()
        return sum(isinstance(thing, Picture) for thing in gc.get_objects())

    async def ask() -> None:
        count, before = Counter(), pictures_alive()
        frame = msgspec.structs.replace(item(episode, 7), render=Render(kind="frame"))
        with RenderPool(1) as pool, pool.open({FOOTAGE: episode}, count) as pictures:
            waited = await asyncio.gather(pictures.get(frame), pictures.get(frame))
            assert waited[0] is waited[1]
            assert count.frames == 8
            del waited
            await asyncio.sleep(0)
            assert pictures_alive() == before
            assert (await pictures.get(frame)).jpegs == render(frame, episode).jpegs
            assert count.frames == 16

    asyncio.run(ask())


def test_no_more_memory_is_given_out_than_there_is() -> None:
    with RenderPool(4, max_bytes=100) as pool:
        reserved, most, lock = 0, 0, threading.Lock()

        def draw(size: int) -> None:
            nonlocal reserved, most
            with pool.memory.reserve(size):
                with lock:
                    reserved += min(size, 100)
                    most = max(most, reserved)
                threading.Event().wait(0.002)
                with lock:
                    reserved -= min(size, 100)

        for done in [pool.executor.submit(draw, size) for size in (40, 60, 30, 1000, 90, 10, 5) * 4]:
            done.result()
        assert 60 <= most <= 100


def test_nothing_is_decoded_until_a_picture_is_asked_for(tmp_path: Path) -> None:
    count = Counter()
    with RenderPool(1) as pool, pool.open({FOOTAGE: clip(tmp_path / "never.mp4", 0, 1)}, count):
        pass
    assert count.frames == 0
