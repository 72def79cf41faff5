"""Pictures of one episode, drawn off the event loop, each once, however many steps ask for it."""

import asyncio
import os
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Condition
from types import TracebackType
from typing import Self

from annotator.errors import FootageError
from annotator.media.clips import Clip, ImageClip
from annotator.media.contact_sheet import drawing_bytes, render_all
from annotator.media.decode import DecodeCounter, frame_size
from annotator.media.picture import Picture
from annotator_store.digests import Digest
from annotator_store.keys import MediaItem

DEFAULT_BYTES = 512 * 1024 * 1024


class RenderPool:
    """The threads that draw, and the memory they may take together; one for all episodes of a run.

    A context manager. `threads` is how many files are decoded at once; 0 is one a core.
    """

    def __init__(self, threads: int = 0, max_bytes: int = DEFAULT_BYTES) -> None:
        self.executor = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="studio")
        self._free = self._max_bytes = max_bytes
        self._changed = Condition()

    def open(
        self, clips: Mapping[Digest, Clip | ImageClip], counted: Callable[[int], None] = lambda frames: None
    ) -> "EpisodeMedia":
        """Open one episode's footage, by digest. `counted` is told, on the event loop, how many frames were decoded."""
        return EpisodeMedia(self, clips, counted)

    def close(self) -> None:
        """Stop the threads; what has not begun is not drawn."""
        self.executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def room(self, wanted_bytes: int) -> Generator[None]:
        """Wait for this much memory to be free; a drawing larger than all of it has it to itself.

        A thread holds one room at a time, so waiting cannot lock up.
        """
        granted = min(wanted_bytes, self._max_bytes)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= granted)
            self._free -= granted
        try:
            yield
        finally:
            with self._changed:
                self._free += granted
                self._changed.notify_all()


class EpisodeMedia:
    """One episode's pictures. Use it from one event loop, as a context manager or with `close`.

    Asked for again, or by several steps at once, an identical item is drawn once; what is asked for together of one
    clip is decoded in one forward pass. Sheets and video blocks stay until `close`, since several steps look at them;
    a single frame is let go of as soon as whoever asked for it has it, since there may be thousands in an episode.
    """

    def __init__(
        self, studio: RenderPool, clips: Mapping[Digest, Clip | ImageClip], counted: Callable[[int], None]
    ) -> None:
        self._studio = studio
        self._counted = counted
        self._clips = dict(clips)
        self._drawn: dict[MediaItem, tuple[_Work, int]] = {}
        self._gathering: dict[Digest, tuple[_Work, list[MediaItem]]] = {}
        self._closed = False

    async def get(self, item: MediaItem) -> Picture:
        """The picture of an item, drawn when it is not there yet. Cancelling one asker does not disturb the others.

        Raises:
            FootageError: a frame of it cannot be read, or its footage is none of this episode's.
        """
        assert not self._closed, "the episode is done and its pictures are gone"
        if item.footage not in self._clips:
            raise FootageError(
                "a picture is asked of footage that is not this episode's",
                got=item.footage,
                hint="the dataset changed during the run; run again",
            )
        if item not in self._drawn:
            self._drawn[item] = self._ask(item)
        held = work, position = self._drawn[item]
        drawn = (await asyncio.shield(work))[position]
        if item.render.kind == "frame" and self._drawn.get(item) is held:
            del self._drawn[item]
        if isinstance(drawn, FootageError):
            raise drawn
        return drawn

    def close(self) -> None:
        """Let go of every picture. Whoever still waits for one is cancelled."""
        self._closed = True
        for work, _ in self._drawn.values():
            work.cancel()
        self._drawn.clear()
        self._gathering.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _ask(self, item: MediaItem) -> "tuple[_Work, int]":
        if item.footage not in self._gathering:
            items: list[MediaItem] = []
            self._gathering[item.footage] = asyncio.ensure_future(self._send(item.footage, items)), items
        work, items = self._gathering[item.footage]
        items.append(item)
        return work, len(items) - 1

    async def _send(self, footage: Digest, items: list[MediaItem]) -> list[Picture | FootageError]:
        # A task begins when the loop turns; until then, whatever else is asked of this clip has joined `items`.
        del self._gathering[footage]
        tally = DecodeCounter()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._studio.executor, self._draw, self._clips[footage], items, tally)
        finally:
            self._counted(tally.frames)

    def _draw(
        self, clip: Clip | ImageClip, items: list[MediaItem], tally: DecodeCounter
    ) -> list[Picture | FootageError]:
        if self._closed:
            return []
        try:
            size = frame_size(clip)
        except FootageError as error:
            return [error] * len(items)
        with self._studio.room(sum(drawing_bytes(item, size) for item in items)):
            return _draw_each(items, clip, tally)


_Work = asyncio.Future[list[Picture | FootageError]]


def _draw_each(items: list[MediaItem], clip: Clip | ImageClip, tally: DecodeCounter) -> list[Picture | FootageError]:
    """Draw all in one pass; where that fails, each alone, so that a damaged frame fails only pictures that hold it."""
    try:
        return [*render_all(items, clip, tally)]
    except FootageError as error:
        if len(items) == 1:
            return [error]
    return [drawn for item in items for drawn in _draw_each([item], clip, tally)]
