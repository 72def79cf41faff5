"""Media items as JPEG: single frames, video blocks and contact sheets with burned-in times.

Whoever changes a pixel gives `Render.renderer` in `annotator_store.keys` its next value: keys name media items and do
not see their pixels.
"""

from collections.abc import Iterable
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image

from annotator.errors import FootageError
from annotator.media.clips import Clip, ImageClip
from annotator.media.decode import DecodeCounter, FrameRequest, Pixels, read_frames, scaled_size
from annotator.media.picture import Picture
from annotator_store.digests import digest_struct
from annotator_store.keys import Media, MediaItem

JPEG_LIMIT_PX = 65_500
"""The largest side of a JPEG. Source: libjpeg, JPEG_MAX_DIMENSION."""

# Five columns by seven rows, one row an octal pair, so that a badge has the same pixels wherever it is drawn.
GLYPHS = {
    "0": "16 21 23 25 31 21 16",
    "1": "04 14 04 04 04 04 16",
    "2": "16 21 01 02 04 10 37",
    "3": "16 21 01 06 01 21 16",
    "4": "02 06 12 22 37 02 02",
    "5": "37 20 36 01 01 21 16",
    "6": "06 10 20 36 21 21 16",
    "7": "37 01 02 04 10 10 10",
    "8": "16 21 21 16 21 21 16",
    "9": "16 21 21 17 01 02 14",
    ".": "00 00 00 00 00 14 14",
    "s": "00 00 17 20 16 01 36",
    "-": "00 00 00 16 00 00 00",
}


def render_all(
    items: Iterable[MediaItem], clip: Clip | ImageClip, counter: DecodeCounter | None = None
) -> tuple[Picture, ...]:
    """Render media items of one clip in one forward pass over it, in the order given.

    Raises:
        FootageError: a frame cannot be read, or a picture is larger than a JPEG can be; then none is rendered.
    """
    renderers = [MediaRenderer(item) for item in items]
    # A frame that several items hold at one size is decoded and scaled once.
    positions: dict[FrameRequest, list[tuple[MediaRenderer, int]]] = {}
    for renderer in renderers:
        for position, request in enumerate(renderer.requests):
            positions.setdefault(request, []).append((renderer, position))
    for request, pixels in read_frames(clip, positions, counter):
        for renderer, position in positions[request]:
            renderer.put(position, pixels)
    return tuple(renderer.picture() for renderer in renderers)


def render_bytes(item: MediaItem, size: tuple[int, int]) -> int:
    """Estimate the memory that rendering an item takes: raw pixels, and JPEGs at an eighth of theirs.

    `size`: the stored width and height in pixels.
    """
    width, height = scaled_size(*size, item.render.width_px)
    tile = width * height * 3
    total = tile * len(item.timestamps)
    # A sheet is one canvas; frames of a video block are let go of one by one.
    return total + total // 8 if item.render.kind == "sheet" else tile + total // 8


class MediaRenderer:
    """One media item being rendered, frame by frame. JPEGs are made as soon as they can be, and pixels let go of.

    `requests` are the frames that it takes; `put` takes each of them once, by its position there, in any order.
    """

    def __init__(self, item: MediaItem) -> None:
        if not item.timestamps or (item.render.kind == "frame" and len(item.timestamps) != 1):
            raise ValueError(f"a {item.render.kind} cannot be drawn from {len(item.timestamps)} frames")
        self.requests = tuple(FrameRequest(time, item.render.width_px) for time in item.timestamps)
        self._item = item
        self._labels = time_labels(item.timestamps) if item.render.badge else ("",) * len(item.timestamps)
        self._jpegs: list[bytes] = [b""] * (1 if item.render.kind == "sheet" else len(item.timestamps))
        self._canvas: Pixels | None = None
        self._missing = len(item.timestamps)

    def put(self, position: int, pixels: Pixels) -> None:
        """Take a frame, (H, W, 3) uint8 RGB; it is neither changed nor kept."""
        self._missing -= 1
        if self._item.render.kind == "sheet":
            self._put_tile(position, pixels)
        else:
            frame = pixels.copy()
            burn_in(frame, self._labels[position])
            self._jpegs[position] = encode_jpeg(frame, self._item.render.quality)

    def picture(self) -> Picture:
        """Return the finished picture; every frame has been put."""
        assert not self._missing, "a frame of the picture is missing"
        return Picture(
            kind="video" if self._item.render.kind == "video" else "image",
            jpegs=tuple(self._jpegs),
            media_digest=digest_struct(Media(item=self._item)),
            timestamps=self._item.timestamps,
        )

    def _put_tile(self, position: int, pixels: Pixels) -> None:
        height, width = pixels.shape[:2]
        columns = min(self._item.render.columns, len(self.requests))
        if self._canvas is None:
            rows = -(-len(self.requests) // columns)
            self._canvas = np.zeros((rows * height, columns * width, 3), np.uint8)
        row, column = divmod(position, columns)
        tile = self._canvas[row * height : (row + 1) * height, column * width : (column + 1) * width]
        tile[:] = pixels
        burn_in(tile, self._labels[position])
        if not self._missing:
            self._jpegs[0] = encode_jpeg(self._canvas, self._item.render.quality)
            self._canvas = None


def time_labels(timestamps: tuple[float, ...]) -> tuple[str, ...]:
    """Return each time in seconds as text: to a tenth, or to a hundredth where neighbours are closer than that."""
    gaps = np.diff(timestamps)
    # float32 timestamps 0.1 s apart differ by a little less or more than that.
    digits = 2 if len(gaps) and gaps.min() < 0.099 else 1
    return tuple(f"{time:.{digits}f}s" for time in timestamps)


def burn_in(tile: Pixels, label: str) -> None:
    """Write a label, white on black, into the upper left corner of a tile, (H, W, 3) uint8 RGB, in place."""
    if not label:
        return
    height, width = tile.shape[:2]
    badge = _badge(label)
    # A dot grows with the tile, and shrinks again where the badge would not fit; what still does not fit is cut off.
    scale = max(1, min(4, round(width / 100), height // badge.shape[0], width // badge.shape[1]))
    badge = badge.repeat(scale, axis=0).repeat(scale, axis=1)[:height, :width]
    tile[: badge.shape[0], : badge.shape[1]] = badge[:, :, None]


@lru_cache(maxsize=4096)
def _badge(label: str) -> Pixels:
    """Return a label of N letters at one pixel a dot with a margin of one, (9, 6 N + 1) uint8, 0 or 255."""
    dots = np.zeros((9, 6 * len(label) + 1), np.uint8)
    for index, letter in enumerate(label):
        rows = [int(row, 8) for row in GLYPHS[letter].split()]
        dots[1:8, 6 * index + 1 : 6 * index + 6] = [[row >> (4 - x) & 1 for x in range(5)] for row in rows]
    return dots * np.uint8(255)


def encode_jpeg(pixels: Pixels, quality: int) -> bytes:
    """Encode (H, W, 3) uint8 RGB as JPEG, `quality` from 1 to 95.

    Raises:
        FootageError: a side is longer than a JPEG can be.
    """
    height, width = pixels.shape[:2]
    if max(height, width) > JPEG_LIMIT_PX:
        raise FootageError(
            "a picture is larger than a JPEG can be",
            got=f"{width} × {height} pixels",
            hint="ask for fewer frames a sheet, more columns or narrower tiles",
        )
    out = BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality)
    return out.getvalue()
