"""Media items of an episode, rendered by threads off the event loop, each once, however many steps ask for it."""

import asyncio
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Self

from annotator.errors import FootageError
from annotator.media.clips import Clip, ImageClip
from annotator.media.contact_sheet import render_all, render_bytes
from annotator.media.decode import DecodeCounter, frame_size
from annotator.media.picture import Picture
from annotator_store.digests import Digest
from annotator_store.keys import MediaItem
from annotator_store.memory_budget import MemoryBudget

DEFAULT_BYTES = 512 * 1024 * 1024


class RenderPool:
    """The threads that render, and the memory they may take together; one for all episodes of a run.

    A context manager. `threads` is how many files are decoded at once; 0 is one a core.
    """

    def __init__(self, threads: int = 0, max_bytes: int = DEFAULT_BYTES) -> None:
        self.executor = ThreadPoolExecutor(threads or os.cpu_count() or 1, thread_name_prefix="render")
        self.memory = MemoryBudget(max_bytes)

    def open(
        self, clips: Mapping[Digest, Clip | ImageClip], on_decoded: Callable[[int], None] = lambda frames: None
    ) -> "EpisodeMedia":
        """Open one episode's clips, by footage digest.

        `on_decoded` is called on the event loop with the number of frames that a pass over a clip decoded.
        """
        return EpisodeMedia(self, clips, on_decoded)

    def close(self) -> None:
        """Stop the threads; what has not begun is not rendered."""
        self.executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class EpisodeMedia:
    """One episode's pictures. Use it from one event loop, as a context manager or with `close`.

    An identical item is rendered once, whether it is asked for again or by several steps at once; items asked for
    together of one clip are decoded in one forward pass. Sheets and video blocks stay until `close`, since several
    steps look at them; a single frame is dropped as soon as everyone who awaits it has it, since there may be thousands
    in an episode.
    """

    def __init__(
        self, pool: RenderPool, clips: Mapping[Digest, Clip | ImageClip], on_decoded: Callable[[int], None]
    ) -> None:
        self._pool = pool
        self._on_decoded = on_decoded
        self._clips = dict(clips)
        self._rendered: dict[MediaItem, tuple[_Batch, int]] = {}
        self._collecting: dict[Digest, tuple[_Batch, list[MediaItem]]] = {}
        self._closed = False

    async def get(self, item: MediaItem) -> Picture:
        """Return the picture of an item, rendering it on first use. Cancelling one caller leaves the others waiting.

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
        if item not in self._rendered:
            self._rendered[item] = self._enqueue(item)
        entry = batch, position = self._rendered[item]
        # Shielded: the batch also renders for others, who must not see this caller's cancellation.
        picture = (await asyncio.shield(batch))[position]
        # Another caller may have dropped the frame and asked for it anew meanwhile; that entry stays.
        if item.render.kind == "frame" and self._rendered.get(item) is entry:
            del self._rendered[item]
        if isinstance(picture, FootageError):
            raise picture
        return picture

    def close(self) -> None:
        """Drop every picture. Callers that still wait for one are cancelled."""
        self._closed = True
        for batch, _ in self._rendered.values():
            batch.cancel()
        self._rendered.clear()
        self._collecting.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _enqueue(self, item: MediaItem) -> "tuple[_Batch, int]":
        if item.footage not in self._collecting:
            items: list[MediaItem] = []
            self._collecting[item.footage] = asyncio.ensure_future(self._run(item.footage, items)), items
        batch, items = self._collecting[item.footage]
        items.append(item)
        return batch, len(items) - 1

    async def _run(self, footage: Digest, items: list[MediaItem]) -> list[Picture | FootageError]:
        # A task begins when the loop turns; until then, whatever else is asked of this clip has joined `items`.
        del self._collecting[footage]
        counter = DecodeCounter()
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool.executor, self._render, self._clips[footage], items, counter)
        finally:
            self._on_decoded(counter.frames)

    def _render(
        self, clip: Clip | ImageClip, items: list[MediaItem], counter: DecodeCounter
    ) -> list[Picture | FootageError]:
        if self._closed:
            return []
        try:
            size = frame_size(clip)
        except FootageError as error:
            return [error] * len(items)
        with self._pool.memory.reserve(sum(render_bytes(item, size) for item in items)):
            return _render_each(items, clip, counter)


_Batch = asyncio.Future[list[Picture | FootageError]]


def _render_each(
    items: list[MediaItem], clip: Clip | ImageClip, counter: DecodeCounter
) -> list[Picture | FootageError]:
    """Render all in one pass; where that fails, each alone, so that a damaged frame fails only items that hold it."""
    try:
        return [*render_all(items, clip, counter)]
    except FootageError as error:
        if len(items) == 1:
            return [error]
    return [picture for item in items for picture in _render_each([item], clip, counter)]
