"""Footage: demuxing a camera's files, and the digests of their encoded bytes.

Digests demux and never decode, since decoders differ by platform and encoded bytes do not. They see neither the
file's name, nor the episode's place in it, nor its neighbours: joining or moving episodes by packet copy leaves them
as they were.
"""

import struct
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import av
import msgspec
import numpy as np
import numpy.typing as npt
from av.codec.codec import UnknownCodecError
from av.container import InputContainer
from av.error import FFmpegError

from annotator.errors import FootageError
from annotator.media.bitstream import read_header
from annotator.media.clips import Clip, ImageClip, image_bytes
from annotator_store.digests import Digest, digest_parts

Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
if TYPE_CHECKING:
    VideoPacket = av.Packet[av.VideoStream]
else:
    VideoPacket = av.Packet  # generic for type checkers alone


class Video(msgspec.Struct, frozen=True, eq=False):
    """An open file and its first video track."""

    path: Path
    container: InputContainer
    stream: av.VideoStream


class Packets(msgspec.Struct, frozen=True, eq=False):
    """A stretch of a track, in decode order, without the bytes.

    `pts`: (N,) int64 in units of `time_base` seconds. `is_shown` is false for what an edit list cuts away.
    `is_whole` is false where the file ended inside the packet. `ended`: the stretch reaches the end of the file.
    """

    pts: Ints
    is_key: Flags
    is_shown: Flags
    is_whole: Flags
    time_base: Fraction
    ended: bool

    def seconds(self) -> npt.NDArray[np.float64]:
        """Presentation times, (N,) seconds in the file."""
        return self.pts.astype(np.float64) * float(self.time_base)

    def slots(self, from_timestamp: float, fps: float) -> Ints:
        """The number of the frame period, counted from `from_timestamp`, that each packet is nearest to, (N,)."""
        return np.floor((self.seconds() - from_timestamp) * fps + 0.5).astype(np.int64)


@contextmanager
def translated(path: Path, doing: str) -> Generator[None]:
    """Turn PyAV's errors into FootageError, with the cause kept."""
    try:
        yield
    except FileNotFoundError as cause:
        raise FootageError(
            "the video file is missing", where=str(path), hint="fetch the dataset's videos, or correct --root"
        ) from cause
    except (FFmpegError, UnknownCodecError) as cause:
        raise FootageError(
            f"the video cannot be {doing}",
            where=str(path),
            got=_first_line(cause),
            hint="the file is truncated, damaged or not a video; fetch it again",
        ) from cause


@contextmanager
def open_video(path: Path) -> Generator[Video]:
    """Open a file by its header; close it when done.

    Raises:
        FootageError: it is missing, empty, truncated, has no video track, or no decoder is known for it.
    """
    with translated(path, "opened"):
        # Which packets are key frames is the container's word; a parser would go by the packet, which may be damaged.
        container = av.open(str(path), options={"fflags": "noparse"})
    with container:
        if not container.streams.video:
            raise FootageError(
                "the file has no video track",
                where=str(path),
                got=", ".join(stream.type for stream in container.streams) or "no track at all",
                hint="check the dataset's video_path in meta/info.json",
            )
        stream = container.streams.video[0]
        # Without a decoder PyAV leaves this None, whatever its type says.
        if not stream.codec_context or stream.time_base is None:
            raise FootageError(
                "no decoder is known for the video's codec",
                where=str(path),
                hint="encode it as AV1, H.264 or HEVC, or install a PyAV whose FFmpeg has the decoder",
            )
        # One thread a decoder: frame threads delay frames and make each seek dearer; files run in parallel instead.
        stream.codec_context.thread_count = 1
        yield Video(path, container, stream)


def scan(video: Video, first_s: float, last_s: float, see: Callable[[VideoPacket], None] | None = None) -> Packets:
    """Demux every packet that frames shown from `first_s` to `last_s` (seconds in the file) are made from.

    The stretch starts at a key frame shown no later than `first_s`, where there is one; `see` is given each packet.
    """
    time_base = _time_base(video)
    last = float(last_s / time_base)
    ended = True
    pts: list[int] = []
    flags: list[tuple[bool, bool, bool]] = []
    with translated(video.path, "read"):
        for packet in packets_from(video, float(first_s / time_base)):
            if packet.dts is not None and packet.dts > last:  # decoded before they are shown: nothing wanted follows
                ended = False
                break
            pts.append(shown_at(packet))
            flags.append((packet.is_keyframe, not packet.is_discard, not packet.is_corrupt))
            if see is not None:
                see(packet)
    marks = np.array(flags, np.bool_).reshape(-1, 3)
    return Packets(np.array(pts, np.int64), marks[:, 0], marks[:, 1], marks[:, 2], time_base, ended)


def packets_from(video: Video, pts: float) -> Iterator[VideoPacket]:
    """Demux from a key frame shown at or before `pts`; from the start of the file where there is none."""
    if not np.isfinite(pts):
        return _demux(video)
    target, earliest = int(np.floor(pts)), None
    while True:
        video.container.seek(target, stream=video.stream)
        rest = _demux(video)
        head = next(rest, None)
        if head is None:
            return iter(())
        shown = shown_at(head)
        if shown <= pts or shown == earliest:
            return chain([head], rest)
        # Some containers seek by time of decoding: only a time before this key frame's own finds the one before it.
        target, earliest = min(shown, shown if head.dts is None else head.dts) - 1, shown


def shown_at(packet: VideoPacket) -> int:
    """A packet's pts; its dts in containers that know no other.

    Raises:
        FootageError: it has neither, as in a stream without a container.
    """
    shown = packet.dts if packet.pts is None else packet.pts
    if shown is None:
        raise FootageError("the video's frames have no times", hint="put it into an mp4 with `ffmpeg -i … -c copy`")
    return shown


def clip_digest(path: Path, from_timestamp: float, to_timestamp: float, fps: float) -> Digest:
    """Digest the encoded frames of a time range, as `file_digests` does, reading only that range.

    Raises:
        FootageError: the file cannot be read, or does not cover the range.
    """
    half = 0.5 / fps
    with open_video(path) as video:
        return _Contents(video, from_timestamp - half, to_timestamp + half).digest(from_timestamp, to_timestamp, fps)


def file_digests(path: Path, clips: Sequence[Clip]) -> tuple[Digest | FootageError, ...]:
    """Digest all episodes of one file in one pass: one result a clip, so that a damaged one fails alone.

    A digest covers the codec, the parameter sets in force, each frame's number of frame periods from
    `from_timestamp` (so a container's rounding of times does not show), and the encoded bytes in order of presentation.

    Raises:
        FootageError: the file cannot be read at all.
    """
    with open_video(path) as video:
        contents = _Contents(video, -np.inf, np.inf)
    return tuple(_digest_or_error(contents, clip) for clip in clips)


def images_digest(clip: ImageClip) -> Digest:
    """Digest the encoded images of an image-stored camera, in order, with the times they are shown at.

    Raises:
        FootageError: an image is neither in the shard nor where its path says.
    """
    times = clip.frame_timestamps.astype("<f4").tobytes()
    images = (image_bytes(clip, index) for index in range(len(clip.images)))
    return digest_parts("images.v1", chain([times], images))


class _Contents:
    """A stretch of one track with a digest of each packet's picture."""

    def __init__(self, video: Video, first_s: float, last_s: float) -> None:
        context = video.stream.codec_context
        # The codec's own name: a decoder's (libdav1d) depends on how FFmpeg was built.
        self.codec = context.codec.canonical_name
        self.path = video.path
        self._bitstream = read_header(self.codec, context.extradata or b"")
        self._pictures = bytearray()
        self._own_sets: dict[int, tuple[bytes, ...]] = {}
        self.packets = scan(video, first_s, last_s, self._see)

    def _see(self, packet: VideoPacket) -> None:
        sifted = self._bitstream.sift(memoryview(packet))
        if sifted.sets:
            self._own_sets[len(self._pictures) // 16] = sifted.sets
        self._pictures += bytes.fromhex(digest_parts("packet.v1", sifted.parts))

    def digest(self, from_timestamp: float, to_timestamp: float, fps: float) -> Digest:
        slots = self.packets.slots(from_timestamp, fps)
        count = int(np.floor((to_timestamp - from_timestamp) * fps + 0.5))
        shown = np.flatnonzero((slots >= 0) & (slots < count) & self.packets.is_shown)
        self._check(shown, slots, count, f"{self.path} from {from_timestamp:g} s to {to_timestamp:g} s")
        # Stable: packets of one instant stay in decode order.
        shown = shown[np.argsort(self.packets.pts[shown], kind="stable")]
        support = self._support(shown)
        pictures = np.frombuffer(self._pictures, np.uint8).reshape(-1, 16)
        return digest_parts(
            "footage.v1",
            [
                self.codec.encode(),
                struct.pack("<d", fps),
                "".join(self._sets_digests(shown, support)).encode(),
                slots[shown].astype("<i8").tobytes(),
                pictures[shown].tobytes(),
                pictures[support].tobytes(),
            ],
        )

    def _support(self, shown: Ints) -> Ints:
        """What lies outside the range and yet is needed to decode it: nothing, when it starts at a key frame."""
        keys = np.flatnonzero(self.packets.is_key[: shown.min() + 1])
        start = keys[-1] if len(keys) else 0
        return np.setdiff1d(np.arange(start, shown.max() + 1), shown)

    def _sets_digests(self, shown: Ints, support: Ints) -> Iterator[str]:
        decoded = {*shown.tolist(), *support.tolist()}
        own = frozenset(one for index, sets in self._own_sets.items() if index in decoded for one in sets)
        return (digest_parts("parameters.v1", [one]) for one in self._bitstream.sets_in_force(own))

    def _check(self, shown: Ints, slots: Ints, count: int, where: str) -> None:
        hint = "the file is cut short or belongs to another episode; fetch it again"
        if not len(shown):
            raise FootageError("the video has no frame of this episode", where=where, hint=hint)
        # One frame of grace: `to_timestamp` is a sum of durations, each rounded by its container.
        if self.packets.ended and slots[shown].max() < count - 2:
            got = f"{slots[shown].max() + 1} of {count} frames"
            raise FootageError("the video ends before the episode does", where=where, got=got, hint=hint)
        if not self.packets.is_whole[shown].all():
            raise FootageError("the file ends in the middle of a frame", where=where, hint=hint)


def _digest_or_error(contents: _Contents, clip: Clip) -> Digest | FootageError:
    try:
        return contents.digest(clip.from_timestamp, clip.to_timestamp, clip.fps)
    except FootageError as error:
        return error


def _demux(video: Video) -> Iterator[VideoPacket]:
    # The last packet of a demuxer is empty and asks decoders to drain.
    return (packet for packet in video.container.demux(video.stream) if packet.size)


def _time_base(video: Video) -> Fraction:
    base = video.stream.time_base
    assert base is not None  # checked on opening
    return base


def _first_line(cause: Exception) -> str:
    return str(cause).partition("\n")[0]
