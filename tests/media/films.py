"""Real videos whose pictures say which frame they are, and ways to join and damage them.

A picture is a 4 × 4 grid of big black or white blocks: the 16 bits of its number, which lossy coding does not change.
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import numpy.typing as npt
from av.container import InputContainer

from annotator.media.clips import Clip, ImageClip
from annotator.media.contact_sheet import render_all
from annotator.media.decode import DecodeCounter, FrameRequest, read_frames
from annotator.media.picture import Picture
from annotator_store.keys import MediaItem
from examples.sample.footage import start_encoding

os.environ.setdefault("SVT_LOG", "1")  # libsvtav1 talks on stderr

Pixels = npt.NDArray[np.uint8]
BLOCK = (24, 32)
CODECS = ("libx264", "libx265", "libsvtav1")


def draw_number(number: int, block: tuple[int, int] = BLOCK) -> Pixels:
    """Draw a number below 65,536 as (4 * block[0], 4 * block[1], 3) uint8."""
    bits = np.array([number >> bit & 1 for bit in range(16)], np.uint8).reshape(4, 4)
    grey = np.kron(bits * np.uint8(255), np.ones(block, np.uint8))
    return np.repeat(grey[:, :, None], 3, axis=2)


def read_number(pixels: Pixels) -> int:
    """Read the number off a picture of any size."""
    height, width = pixels.shape[0] // 4, pixels.shape[1] // 4
    means = pixels[: 4 * height, : 4 * width].reshape(4, height, 4, width, 3).mean(axis=(1, 3, 4)).ravel()
    return sum(1 << bit for bit in range(16) if means[bit] > 127)


def film(
    path: Path,
    numbers: Iterable[int],
    *,
    codec: str = "libx264",
    fps: float | Fraction = 30,
    gop: int = 2,
    block: tuple[int, int] = BLOCK,
    options: dict[str, str] | None = None,
    muxing: dict[str, str] | None = None,
    first_pts: int = 0,
    time_base: Fraction | None = None,
) -> Path:
    """Encode numbers as a video. `first_pts` frames pass before the first; `time_base` is that of the pts."""
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w", options=muxing or {}) as container:
        stream = cast("av.VideoStream", container.add_stream(codec, rate=rate, options=_options(codec, gop, options)))
        stream.height, stream.width = 4 * block[0], 4 * block[1]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        if time_base is not None:
            stream.codec_context.time_base = time_base
        start_encoding(container)
        base = time_base or 1 / rate
        for position, number in enumerate(numbers, first_pts):
            frame = av.VideoFrame.from_ndarray(draw_number(number, block), format="rgb24")
            frame.time_base, frame.pts = base, round(position / rate / base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def join(paths: Sequence[Path], out: Path) -> Path:
    """Copy the packets of all films one after the other into one mp4, as datasets are put together."""
    listing = out.with_suffix(".ffconcat")
    listing.write_text("ffconcat version 1.0\n" + "".join(f"file '{path.resolve()}'\n" for path in paths))
    with av.open(str(listing), format="concat", options={"safe": "0"}) as source:
        _copy(source, out, {"movflags": "faststart"})
    return out


def rewrap(path: Path, out: Path, options: dict[str, str] | None = None) -> Path:
    """Copy the packets of one film into another container."""
    with av.open(str(path)) as source:
        _copy(source, out, options or {})
    return out


def clip(path: Path, start: int, count: int, fps: float = 30, camera: str = "observation.images.top") -> Clip:
    """The clip of `count` frames from frame `start` of a file."""
    return Clip(
        path=path,
        from_timestamp=start / fps,
        to_timestamp=(start + count) / fps,
        frame_timestamps=timestamps(count, fps),
        fps=fps,
        camera=camera,
    )


def read_times(
    clip: Clip | ImageClip, times: Sequence[float], width_px: int = 0, counter: DecodeCounter | None = None
) -> Iterator[tuple[float, Pixels]]:
    """Read the frames at these times at one width: (timestamp, (H, W, 3) uint8 RGB), ascending, each once."""
    for request, pixels in read_frames(clip, [FrameRequest(time, width_px) for time in times], counter):
        yield request.timestamp, pixels


def render(item: MediaItem, clip: Clip | ImageClip, counter: DecodeCounter | None = None) -> Picture:
    """Render one media item alone."""
    return render_all([item], clip, counter)[0]


def timestamps(count: int, fps: float = 30) -> npt.NDArray[np.float32]:
    """Frame timestamps of an episode, (count,) float32."""
    return (np.arange(count) / fps).astype(np.float32)


def packet_places(path: Path) -> list[tuple[int, int]]:
    """Offset and size in bytes of every packet of a film, in decode order."""
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(container.streams.video[0]) if packet.size]
    return [(packet.pos, packet.size) for packet in packets if packet.pos is not None]


def _copy(source: InputContainer, out: Path, options: dict[str, str]) -> None:
    with av.open(str(out), "w", options=options) as target:
        old = source.streams.video[0]
        new = target.add_stream_from_template(old, opaque=True)
        new.time_base = old.time_base
        for packet in source.demux(old):
            if packet.dts is not None:
                packet.stream = new
                target.mux(packet)


def _options(codec: str, gop: int, more: dict[str, str] | None) -> dict[str, str]:
    own = {
        "libx264": {"preset": "veryfast", "crf": "30", "sc_threshold": "0"},
        "libx265": {"preset": "ultrafast", "x265-params": "log-level=error:pools=1:bframes=2:scenecut=0"},
        "libsvtav1": {"preset": "8", "crf": "30", "svtav1-params": "lp=1"},
    }
    return {"g": str(gop)} | own.get(codec, {}) | (more or {})
