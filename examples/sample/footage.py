"""Frames become what a dataset stores: one encoded clip per episode, joined into mp4 files, or a PNG per frame."""

import contextlib
import io
import os
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
from PIL import Image

from . import scene
from .motion import Episode
from .statistics import Stats, of_frames

# The AV1 encoder prints its settings to stderr unless it is told otherwise before it loads.
os.environ.setdefault("SVT_LOG", "1")

import av
from av.codec import Codec
from av.codec.codec import UnknownCodecError
from av.container import OutputContainer
from av.video.stream import VideoStream

Frame = npt.NDArray[np.uint8]

ENCODERS = {
    "libsvtav1": {"g": "2", "crf": "30", "preset": "12", "svtav1-params": "lp=1:scm=0"},
    "libaom-av1": {"g": "2", "crf": "30", "cpu-used": "8", "row-mt": "1"},
    "libx264": {"g": "2", "crf": "23", "preset": "veryfast", "bf": "0", "threads": "1"},
}
"""In order of preference. A key frame every second frame and CRF 30 are what LeRobot 0.6 records with."""


TOP, WRIST = "observation.images.top", "observation.images.wrist"
DRAW: dict[str, Callable[[Episode, int], Frame]] = {TOP: scene.draw_top, WRIST: scene.draw_wrist}


class Camera(msgspec.Struct, frozen=True):
    """A camera and its footage: `files` says which episodes share an mp4; without files, PNGs lie in the shards."""

    key: str
    height_px: int
    width_px: int
    files: tuple[range, ...]


class Film(msgspec.Struct, frozen=True):
    """One episode through one camera: an mp4 of its own, or a PNG per frame, and the pixels' statistics."""

    clip: bytes
    pngs: tuple[bytes, ...]
    stats: Stats


def film(episode: Episode, camera: Camera, fps: int, encoder: str) -> Film:
    """Draw an episode as one camera sees it and encode it as that camera stores it."""
    frames = [DRAW[camera.key](episode, i) for i in range(len(episode.state))]
    stats = of_frames(frames)
    if camera.files:
        return Film(encode_clip(frames, fps, encoder), (), stats)
    return Film(b"", tuple(encode_png(frame) for frame in frames), stats)


def choose_encoder() -> str:
    """Return the first of `ENCODERS` that this PyAV was built with."""
    for name in ENCODERS:
        try:
            Codec(name, "w")
        except UnknownCodecError:
            continue
        return name
    raise SystemExit(f"PyAV {av.__version__} has none of these video encoders: {', '.join(ENCODERS)}")


def encode_clip(frames: Sequence[Frame], fps: int, encoder: str) -> bytes:
    """Encode an episode's (H, W, 3) uint8 RGB frames to an mp4 of its own, whose first frame is a key frame."""
    clip = io.BytesIO()
    with av.open(clip, "w", format="mp4") as container:
        stream = container.add_stream(encoder, rate=fps, options=dict(ENCODERS[encoder]))
        assert isinstance(stream, VideoStream)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        start_encoding(container)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return clip.getvalue()


def start_encoding(container: OutputContainer) -> None:
    """Open a container's encoders, and keep the process an ordinary one.

    Where root runs it, SVT-AV1 gives the calling thread, and so its own and all that are started later, real-time
    priority (SCHED_FIFO, 99): whatever else the machine runs then waits for them.
    """
    container.start_encoding()
    if sys.platform == "linux":
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setscheduler(int(thread.name), os.SCHED_OTHER, os.sched_param(0))


def join_clips(clips: Sequence[bytes], path: Path) -> None:
    """Put clips one after the other in one mp4, packet by packet, without encoding anew."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(path, "w") as joined:
        target: VideoStream | None = None
        offset = 0
        for clip in clips:
            with av.open(io.BytesIO(clip), "r") as part:
                source = part.streams.video[0]
                target = target or joined.add_stream_from_template(source, opaque=True)
                target.time_base = source.time_base
                for packet in part.demux(source):
                    if packet.pts is None or packet.dts is None:
                        continue  # the empty packet that ends a clip
                    # Each clip begins at 0: it is moved behind those before it.
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = target
                    joined.mux(packet)
                offset += source.duration or 0


def describe_video(path: Path, encoder: str) -> dict[str, object]:
    """Return what `meta/info.json` says of an mp4, in LeRobot's words, from its header and its encoder's options."""
    options = ENCODERS[encoder]
    with av.open(path) as container:
        stream = container.streams.video[0]
        return {
            "video.height": stream.height,
            "video.width": stream.width,
            "video.codec": stream.codec.canonical_name,
            "video.pix_fmt": stream.pix_fmt,
            "video.fps": int(Fraction(stream.average_rate or 0)),  # av 19 has a type of its own
            "video.channels": 3,
            "has_audio": False,
            "video.g": int(options["g"]),
            "video.crf": int(options["crf"]),
            "video.preset": int(options["preset"]) if options.get("preset", "").isdigit() else options.get("preset"),
            "video.fast_decode": 0,
            "video.video_backend": "pyav",
            "video.extra_options": {},
            "is_depth_map": False,
        }


def encode_png(frame: Frame) -> bytes:
    """Encode one frame, (H, W, 3) uint8 RGB, as PNG."""
    png = io.BytesIO()
    Image.fromarray(frame).save(png, "PNG", compress_level=6)
    return png.getvalue()
