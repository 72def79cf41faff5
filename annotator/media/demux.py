"""Demuxing a camera's files, and the digests of their encoded bytes.

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
    """An open file and its first video track, whose times are counted in units of `time_base` seconds."""

    path: Path
    container: InputContainer
    stream: av.VideoStream
    time_base: Fraction

    def demux(self) -> Iterator[VideoPacket]:
        """Yield the track's packets in decode order, from where the container stands."""
        # The last packet of a demuxer is empty and asks decoders to drain.
        return (packet for packet in self.container.demux(self.stream) if packet.size)


class Packets(msgspec.Struct, frozen=True, eq=False):
    """N consecutive packets of a track, in decode order, without their bytes.

    `pts`: (N,) int64 in units of `time_base` seconds. `is_key`, `is_shown`, `is_whole`: (N,) bool. `is_shown` is false
    for what an edit list cuts away, `is_whole` where the file ended inside the packet.
    """

    pts: Ints
    is_key: Flags
    is_shown: Flags
    is_whole: Flags
    time_base: Fraction

    def seconds(self) -> npt.NDArray[np.float64]:
        """Return the presentation times, (N,) float64 seconds in the file."""
        return self.pts.astype(np.float64) * float(self.time_base)

    def frame_numbers(self, from_timestamp: float, fps: float) -> Ints:
        """Return each packet's frame number, (N,) int64, counted from `from_timestamp` seconds in the file.

        Rounding to whole frame periods hides how finely a container counts time.
        """
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
            got=str(cause).partition("\n")[0],
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
        yield Video(path, container, stream, Fraction(stream.time_base))  # av 19 has a type of its own


def scan(
    video: Video, first_s: float, last_s: float, on_packet: Callable[[VideoPacket], None] | None = None
) -> Packets:
    """Demux every packet that frames shown from `first_s` to `last_s` (seconds in the file) are made from.

    The packets start at a key frame shown no later than `first_s`, where there is one; `on_packet` is given each.

    Raises:
        FootageError: the file cannot be read there, or its frames have no times.
    """
    last = float(last_s / video.time_base)
    pts: list[int] = []
    flags: list[tuple[bool, bool, bool]] = []
    with translated(video.path, "read"):
        for packet in packets_from(video, float(first_s / video.time_base)):
            if packet.dts is not None and packet.dts > last:  # frames are decoded before they are shown
                break
            pts.append(shown_at(packet))
            flags.append((packet.is_keyframe, not packet.is_discard, not packet.is_corrupt))
            if on_packet is not None:
                on_packet(packet)
    is_key, is_shown, is_whole = np.array(flags, np.bool_).reshape(-1, 3).T
    return Packets(np.array(pts, np.int64), is_key, is_shown, is_whole, video.time_base)


def packets_from(video: Video, pts: float) -> Iterator[VideoPacket]:
    """Demux from a key frame shown at or before `pts`; from the start of the file where there is none."""
    if not np.isfinite(pts):
        return video.demux()
    target, earliest = int(np.floor(pts)), None
    while True:
        video.container.seek(target, stream=video.stream)
        rest = video.demux()
        head = next(rest, None)
        if head is None:
            return iter(())
        shown = shown_at(head)
        if shown <= pts or shown == earliest:
            return chain([head], rest)
        # Some containers seek by time of decoding: only a time before this key frame's own finds the one before it.
        target, earliest = min(shown, shown if head.dts is None else head.dts) - 1, shown


def shown_at(packet: VideoPacket) -> int:
    """Return a packet's pts; its dts in containers that know no other.

    Raises:
        FootageError: it has neither, as in a stream without a container.
    """
    shown = packet.dts if packet.pts is None else packet.pts
    if shown is None:
        raise FootageError("the video's frames have no times", hint="put it into an mp4 with `ffmpeg -i … -c copy`")
    return shown


def file_digests(path: Path, clips: Sequence[Clip]) -> tuple[Digest | FootageError, ...]:
    """Digest all episodes of one file in one pass: one result a clip, so that a damaged one fails alone.

    A digest covers the codec, the active parameter sets, each frame's number counted from `from_timestamp` (so a
    container's rounding of times does not show), and the encoded bytes in order of presentation.

    Raises:
        FootageError: the file cannot be read at all.
    """
    with open_video(path) as video:
        track = _TrackDigests(video)
    digests: list[Digest | FootageError] = []
    for clip in clips:
        try:
            digests.append(track.digest(clip))
        except FootageError as error:
            digests.append(error)
    return tuple(digests)


def images_digest(clip: ImageClip) -> Digest:
    """Digest the encoded images of an image-stored camera, in order, with the times they are shown at.

    Raises:
        FootageError: an image is neither in the shard nor where its path says.
    """
    times = clip.frame_timestamps.astype("<f4").tobytes()
    images = (image_bytes(clip, index) for index in range(len(clip.images)))
    return digest_parts("images.v1", chain([times], images))


class _TrackDigests:
    """All packets of a track, each with a digest of its picture and with the parameter sets it carries."""

    def __init__(self, video: Video) -> None:
        context = video.stream.codec_context
        # The codec's own name: a decoder's (libdav1d) depends on how FFmpeg was built.
        self._codec = context.codec.canonical_name
        self._path = video.path
        self._bitstream = read_header(self._codec, context.extradata or b"")
        self._pictures = bytearray()  # 16 bytes a packet: an hour at 30 Hz takes 1.7 MB
        self._packet_sets: dict[int, tuple[bytes, ...]] = {}
        self._packets = scan(video, -np.inf, np.inf, self._add)

    def _add(self, packet: VideoPacket) -> None:
        parts = self._bitstream.split(memoryview(packet))
        if parts.parameter_sets:
            self._packet_sets[len(self._pictures) // 16] = parts.parameter_sets
        self._pictures += bytes.fromhex(digest_parts("packet.v1", parts.picture))

    def digest(self, clip: Clip) -> Digest:
        numbers = self._packets.frame_numbers(clip.from_timestamp, clip.fps)
        count = int(np.floor((clip.to_timestamp - clip.from_timestamp) * clip.fps + 0.5))
        shown = np.flatnonzero((numbers >= 0) & (numbers < count) & self._packets.is_shown)
        self._refuse_incomplete(clip, shown, numbers[shown], count)
        # Stable: packets of one instant stay in decode order.
        shown = shown[np.argsort(self._packets.pts[shown], kind="stable")]
        support = self._support(shown)
        pictures = np.frombuffer(self._pictures, np.uint8).reshape(-1, 16)
        return digest_parts(
            "footage.v1",
            [
                self._codec.encode(),
                struct.pack("<d", clip.fps),
                "".join(self._sets_digests({*shown.tolist(), *support.tolist()})).encode(),
                numbers[shown].astype("<i8").tobytes(),
                pictures[shown].tobytes(),
                pictures[support].tobytes(),
            ],
        )

    def _support(self, shown: Ints) -> Ints:
        """Return the packets outside the clip that it is decoded from: none where it starts at a key frame."""
        keys = np.flatnonzero(self._packets.is_key[: shown.min() + 1])
        start = keys[-1] if len(keys) else 0
        return np.setdiff1d(np.arange(start, shown.max() + 1), shown)

    def _sets_digests(self, decoded: set[int]) -> Iterator[str]:
        packet_sets = frozenset(
            parameter_set
            for index, parameter_sets in self._packet_sets.items()
            if index in decoded
            for parameter_set in parameter_sets
        )
        return (digest_parts("parameters.v1", [active]) for active in self._bitstream.active_sets(packet_sets))

    def _refuse_incomplete(self, clip: Clip, shown: Ints, numbers: Ints, count: int) -> None:
        where = f"{self._path} from {clip.from_timestamp:g} s to {clip.to_timestamp:g} s"
        hint = "the file is cut short or belongs to another episode; fetch it again"
        if not len(shown):
            raise FootageError("the video has no frame of this episode", where=where, hint=hint)
        # One frame of grace: `to_timestamp` is a sum of durations, each rounded by its container.
        if numbers.max() < count - 2:
            got = f"{numbers.max() + 1} of {count} frames"
            raise FootageError("the video ends before the episode does", where=where, got=got, hint=hint)
        if not self._packets.is_whole[shown].all():
            raise FootageError("the file ends in the middle of a frame", where=where, hint=hint)
