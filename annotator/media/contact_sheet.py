"""Pictures for a model: single frames, video blocks and contact sheets, as JPEG.

A change to what is drawn is a change of `Render.renderer` in `annotator_store.keys`: keys name
pictures and do not see them.
"""

from collections.abc import Iterable
from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image

from annotator.errors import FootageError
from annotator.media.clips import Clip, ImageClip
from annotator.media.decode import DecodeCounter, FrameRequest, Pixels, read_wanted, scaled_size
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


def render(item: MediaItem, clip: Clip | ImageClip, tally: DecodeCounter | None = None) -> Picture:
    """Draw one media item.

    Raises:
        FootageError: a frame cannot be read, or the picture is larger than a JPEG can be.
    """
    return render_all([item], clip, tally)[0]


def render_all(
    items: Iterable[MediaItem], clip: Clip | ImageClip, tally: DecodeCounter | None = None
) -> tuple[Picture, ...]:
    """Draw several media items of one clip in one forward pass over it, in the order given.

    Raises:
        FootageError: as `render`; then none is drawn.
    """
    drawings = [MediaRenderer(item) for item in items]
    places: dict[FrameRequest, list[tuple[MediaRenderer, int]]] = {}
    for drawing in drawings:
        for position, want in enumerate(drawing.wants):
            places.setdefault(want, []).append((drawing, position))
    for want, pixels in read_wanted(clip, places, tally):
        for drawing, position in places[want]:
            drawing.put(position, pixels)
    return tuple(drawing.picture() for drawing in drawings)


def drawing_bytes(item: MediaItem, size: tuple[int, int]) -> int:
    """About how much memory drawing an item takes: raw pixels, and JPEGs at an eighth of theirs.

    `size`: the stored width and height.
    """
    width, height = scaled_size(*size, item.render.width_px)
    tile = width * height * 3
    total = tile * len(item.timestamps)
    return total + total // 8 if item.render.kind == "sheet" else tile + total // 8


class MediaRenderer:
    """One media item being drawn, frame by frame. JPEGs are made as soon as they can be, and pixels let go.

    `wants` are the frames that it takes; `put` takes each of them once, by its position there, in any order.
    """

    def __init__(self, item: MediaItem) -> None:
        if not item.timestamps or (item.render.kind == "frame" and len(item.timestamps) != 1):
            raise ValueError(f"a {item.render.kind} cannot be drawn from {len(item.timestamps)} frames")
        self.wants = tuple(FrameRequest(time, item.render.width_px) for time in item.timestamps)
        self._item = item
        self._labels = labels(item.timestamps) if item.render.badge else ("",) * len(item.timestamps)
        self._jpegs: list[bytes] = [b""] * (1 if item.render.kind == "sheet" else len(item.timestamps))
        self._canvas: Pixels | None = None
        self._left = len(item.timestamps)

    def put(self, position: int, pixels: Pixels) -> None:
        """Take a frame, (H, W, 3) uint8 RGB; it is not changed and not kept."""
        self._left -= 1
        if self._item.render.kind == "sheet":
            self._put_tile(position, pixels)
        else:
            frame = pixels.copy()
            burn_in(frame, self._labels[position])
            self._jpegs[position] = encode_jpeg(frame, self._item.render.quality)

    def picture(self) -> Picture:
        """The finished picture; every frame has been put."""
        assert not self._left, "a frame of the drawing is missing"
        return Picture(
            kind="video" if self._item.render.kind == "video" else "image",
            jpegs=tuple(self._jpegs),
            media_digest=digest_struct(Media(item=self._item)),
            timestamps=self._item.timestamps,
        )

    def _put_tile(self, position: int, pixels: Pixels) -> None:
        height, width = pixels.shape[:2]
        columns = min(self._item.render.columns, len(self.wants))
        if self._canvas is None:
            rows = -(-len(self.wants) // columns)
            self._canvas = np.zeros((rows * height, columns * width, 3), np.uint8)
        row, column = divmod(position, columns)
        tile = self._canvas[row * height : (row + 1) * height, column * width : (column + 1) * width]
        tile[:] = pixels
        burn_in(tile, self._labels[position])
        if not self._left:
            self._jpegs[0] = encode_jpeg(self._canvas, self._item.render.quality)
            self._canvas = None


def labels(timestamps: tuple[float, ...]) -> tuple[str, ...]:
    """Name each time in seconds: to a tenth, or to a hundredth where neighbours are closer than that."""
    gaps = np.diff(timestamps)
    # float32 timestamps 0.1 s apart differ by a little less or more than that.
    digits = 2 if len(gaps) and gaps.min() < 0.099 else 1
    return tuple(f"{time:.{digits}f}s" for time in timestamps)


def burn_in(tile: Pixels, label: str) -> None:
    """Write a label, white on black, into the upper left corner of a tile, (H, W, 3) uint8 RGB, in place."""
    if not label:
        return
    height, width = tile.shape[:2]
    stamp = _badge(label)
    scale = max(1, min(4, round(width / 100), height // stamp.shape[0], width // stamp.shape[1]))
    stamp = stamp.repeat(scale, axis=0).repeat(scale, axis=1)[:height, :width]
    tile[: stamp.shape[0], : stamp.shape[1]] = stamp[:, :, None]


@lru_cache(maxsize=4096)
def _badge(label: str) -> Pixels:
    """A label at one pixel a dot with a margin of one, (9, 6 N + 1) uint8."""
    dots = np.zeros((9, 6 * len(label) + 1), np.uint8)
    for place, letter in enumerate(label):
        rows = [int(row, 8) for row in GLYPHS[letter].split()]
        dots[1:8, 6 * place + 1 : 6 * place + 6] = [[row >> (4 - x) & 1 for x in range(5)] for row in rows]
    return dots * np.uint8(255)


def encode_jpeg(pixels: Pixels, quality: int) -> bytes:
    """Encode (H, W, 3) uint8 RGB as JPEG.

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
