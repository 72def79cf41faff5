"""What is drawn: tiles in their places, times that can be read, JPEGs a model gets."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from annotator.errors import FootageError
from annotator.media.clips import Clip
from annotator.media.contact_sheet import GLYPHS, MediaRenderer, burn_in, encode_jpeg, render_all, time_labels
from annotator.media.decode import DecodeCounter, Pixels
from annotator_store.digests import Digest, digest_parts, digest_struct
from annotator_store.keys import Media, MediaItem, Render
from tests.media.films import clip, draw_number, film, read_number, render

FOOTAGE = Digest("0" * 32)


def item(times: "tuple[float, ...]", **render: Any) -> MediaItem:
    return MediaItem(footage=FOOTAGE, timestamps=times, render=Render(**render))


def pixels_of(jpeg: bytes) -> Pixels:
    return np.asarray(Image.open(BytesIO(jpeg)).convert("RGB"))


def times_of(episode: Clip, *positions: int) -> tuple[float, ...]:
    return tuple(float(episode.frame_timestamps[position]) for position in positions)


@pytest.fixture
def episode(tmp_path: Path) -> Clip:
    return clip(film(tmp_path / "a.mp4", range(40), gop=12), 0, 40)


def test_a_sheets_tiles_stand_row_by_row_and_the_rest_is_black(episode: Clip) -> None:
    sheet = render(item(times_of(episode, 1, 3, 5, 7, 9), kind="sheet", width_px=64, columns=3, quality=90), episode)
    assert sheet.kind == "image" and len(sheet.jpegs) == 1
    drawn = pixels_of(sheet.jpegs[0])
    assert drawn.shape == (96, 192, 3)
    tiles = [drawn[r * 48 : r * 48 + 48, c * 64 : c * 64 + 64] for r in range(2) for c in range(3)]
    assert [read_number(tile) for tile in tiles] == [1, 3, 5, 7, 9, 0]
    assert tiles[5].max() == 0


def test_a_sheet_is_no_wider_than_its_tiles(episode: Clip) -> None:
    sheet = render(item(times_of(episode, 1, 3), kind="sheet", width_px=64, columns=5), episode)
    assert pixels_of(sheet.jpegs[0]).shape == (48, 128, 3)


def test_a_video_block_is_one_jpeg_a_frame_in_order(episode: Clip) -> None:
    times = times_of(episode, *range(0, 40, 8))
    video = render(item(times, kind="video", width_px=64), episode)
    assert video.kind == "video" and video.timestamps == times
    assert [read_number(pixels_of(jpeg)) for jpeg in video.jpegs] == [0, 8, 16, 24, 32]


def test_a_single_frame_keeps_the_stored_width_unless_told(episode: Clip) -> None:
    frame = item(times_of(episode, 39), kind="frame")
    picture = render(frame, episode)
    assert picture.kind == "image"
    assert picture.media_digest == digest_struct(Media(item=frame))
    (jpeg,) = picture.jpegs
    assert pixels_of(jpeg).shape == (96, 128, 3) and read_number(pixels_of(jpeg)) == 39


def test_quality_decides_the_size_of_the_jpeg(episode: Clip) -> None:
    low, high = (render(item((0.0,), kind="frame", quality=quality), episode).jpegs[0] for quality in (20, 95))
    assert len(low) < len(high)


def test_the_same_item_is_the_same_bytes(episode: Clip) -> None:
    sheet = item(times_of(episode, 0, 10, 20), kind="sheet", width_px=64, columns=2, badge=True)
    assert render(sheet, episode) == render(sheet, episode)


def test_several_items_of_one_clip_share_one_pass(episode: Clip) -> None:
    items = [
        item(times_of(episode, *range(0, 40, 2)), kind="sheet", width_px=64, columns=5),
        item(times_of(episode, *range(20, 40)), kind="video", width_px=32, badge=True),
        item(times_of(episode, 39), kind="frame"),
        item(times_of(episode, 30, 20), kind="video", width_px=32),
    ]
    apart, together = DecodeCounter(), DecodeCounter()
    assert render_all(items, episode, together) == tuple(render(item, episode, apart) for item in items)
    assert together.frames <= 40 < apart.frames


def test_a_badge_covers_its_corner_and_nothing_else(episode: Clip) -> None:
    times = times_of(episode, 5, 6)
    plain, badged = (
        pixels_of(render(item(times, kind="sheet", columns=2, quality=95, badge=badge), episode).jpegs[0])
        for badge in (False, True)
    )
    changed = np.abs(plain.astype(int) - badged.astype(int)).max(axis=2) > 60
    rows, columns = np.flatnonzero(changed.any(axis=1)), np.flatnonzero(changed.any(axis=0) & (np.arange(256) < 128))
    assert rows.max() < 12 and columns.max() < 32
    assert changed[:, 128:160].any(), "each tile has its own"


@pytest.mark.parametrize("width", [160, 224, 640])
def test_a_burned_in_time_can_be_read_back_dot_by_dot(width: int) -> None:
    label = "1234567890.s"
    tile = np.full((width * 3 // 4, width, 3), 77, np.uint8)
    burn_in(tile, label)
    scale = {160: 2, 224: 2, 640: 4}[width]
    for place, letter in enumerate(label):
        left = (6 * place + 1) * scale
        dots = tile[scale : 8 * scale : scale, left : left + 5 * scale : scale, 0] // 255
        rows = [f"{int(''.join(map(str, row)), 2):02o}" for row in dots.tolist()]
        assert " ".join(rows) == GLYPHS[letter]
    assert set(np.unique(tile[: 9 * scale, : (6 * len(label) + 1) * scale])) == {0, 255}
    assert (tile[9 * scale :] == 77).all() and (tile[:, (6 * len(label) + 1) * scale :] == 77).all()


@pytest.mark.parametrize(("height", "width"), [(22, 224), (400, 40), (7, 31), (1, 1), (500, 160)])
def test_a_badge_fits_tiles_of_any_shape(height: int, width: int) -> None:
    tile = np.full((height, width, 3), 200, np.uint8)
    burn_in(tile, "12.3s")
    assert tile.shape == (height, width, 3)
    assert set(np.unique(tile)) <= {0, 200, 255}


def test_times_closer_than_a_tenth_are_told_apart() -> None:
    assert time_labels((0.0, 0.1, 12.345)) == ("0.0s", "0.1s", "12.3s")
    assert time_labels((float(np.float32(0.8)), float(np.float32(0.9)))) == ("0.8s", "0.9s")
    assert time_labels((1.0, 1.0333, 1.0667)) == ("1.00s", "1.03s", "1.07s")


def test_pixels_do_not_change_without_a_new_renderer() -> None:
    """When this fails on purpose, give `Render.renderer` its next value: cached answers were to the old pixels."""
    canvases: list[bytes] = []
    for label, shape in [("0.0s", (120, 160)), ("12.3s", (168, 224)), ("-456.789s", (480, 640))]:
        tile = np.full((*shape, 3), 100, np.uint8)
        burn_in(tile, label)
        canvases.append(tile.tobytes())
    assert Render(kind="sheet").renderer == "1"
    assert digest_parts("test", canvases) == "ab923a89ccfbc6cfa4bccf9b982af656"


@pytest.mark.parametrize(("kind", "times"), [("frame", (0.0, 0.1)), ("frame", ()), ("sheet", ()), ("video", ())])
def test_an_item_with_the_wrong_number_of_frames_is_refused(kind: Any, times: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="cannot be drawn"):
        MediaRenderer(item(times, kind=kind))


def test_what_no_jpeg_can_hold_is_an_error_with_a_hint() -> None:
    with pytest.raises(FootageError, match="larger than a JPEG"):
        encode_jpeg(np.zeros((1, 65_536, 3), np.uint8), 80)


@pytest.mark.parametrize("block", [(60, 34), (17, 23), (4, 160)], ids=["portrait", "odd", "very wide"])
def test_any_shape_of_picture_keeps_its_aspect(tmp_path: Path, block: tuple[int, int]) -> None:
    height, width = 4 * block[0], 4 * block[1]
    episode = clip(film(tmp_path / "a.mp4", [0xA5F0], block=block), 0, 1)
    drawn = pixels_of(render(item((0.0,), kind="frame", width_px=101, quality=95), episode).jpegs[0])
    assert drawn.shape == (round(height * 101 / width), 101, 3)
    if drawn.shape[0] > 8:
        assert read_number(drawn) == read_number(draw_number(0xA5F0, block))
