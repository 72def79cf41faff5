"""Exact frames by timestamp, decoding no more than they need.

Decoders start at key frames. One pass over the packets says which groups of pictures hold a requested frame; only
those are decoded, forward, and only as far as the last requested frame in each. Other frames are never converted to
RGB.
"""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO

import av
import msgspec
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from PIL import Image

from annotator.errors import FootageError
from annotator.media.clips import Clip, ImageClip, image_bytes
from annotator.media.demux import Ints, Packets, Video, VideoPacket, open_video, packets_from, scan, shown_at
from annotator.media.sampling import nearest

Pixels = npt.NDArray[np.uint8]

# The decoders that can leave out frames which no other frame refers to; the rest of the picture is unchanged by it.
SKIPPING_CODECS = frozenset({"h264", "hevc"})


class FrameRequest(msgspec.Struct, frozen=True, order=True):
    """One frame at one size. `timestamp` is seconds from the episode's first frame; width 0 keeps the stored size."""

    timestamp: float
    width_px: int = 0


class DecodeCounter:
    """Counts the frames that a decoder gave out, requested or not. Not shared between threads."""

    def __init__(self) -> None:
        self.frames = 0


def read_frames(
    clip: Clip | ImageClip, requests: Iterable[FrameRequest], counter: DecodeCounter | None = None
) -> Iterator[tuple[FrameRequest, Pixels]]:
    """Read frames at any sizes in one forward pass: each request once, ascending, with (H, W, 3) uint8 RGB.

    A frame is the one shown nearest to the timestamp, and within half a frame period of it. A tighter bound would
    refuse files whose container rounds times (29.97 Hz in milliseconds); with a looser one the nearest frame could be
    another one than was recorded. One frame is alive at a time; the caller owns each array.

    Raises:
        FootageError: the file or image cannot be read, or no frame is shown there.
    """
    ordered = sorted(set(requests))
    if not ordered:
        return
    counter = counter or DecodeCounter()
    if isinstance(clip, ImageClip):
        yield from _read_images(clip, ordered, counter)
    else:
        yield from _read_video(clip, ordered, counter)


def frame_size(clip: Clip | ImageClip) -> tuple[int, int]:
    """Return the stored width and height in pixels, from the header alone.

    Raises:
        FootageError: the header cannot be read.
    """
    if isinstance(clip, ImageClip):
        with _stored_image(clip, 0) as image:
            return image.size
    with open_video(clip.path) as video:
        return video.stream.codec_context.width, video.stream.codec_context.height


def scaled_size(width: int, height: int, width_px: int) -> tuple[int, int]:
    """Return width and height at a requested width (0: the stored one), height following the aspect ratio, >= 1."""
    if not width_px:
        return width, height
    return width_px, max(1, round(height * width_px / width))


def _read_video(
    clip: Clip, requests: Sequence[FrameRequest], counter: DecodeCounter
) -> Iterator[tuple[FrameRequest, Pixels]]:
    period = 1 / clip.fps
    with open_video(clip.path) as video:
        first, last = (clip.from_timestamp + request.timestamp for request in (requests[0], requests[-1]))
        packets = scan(video, first - period, last + period)
        chosen = _choose_packets(clip, packets, np.array([request.timestamp for request in requests]))
        by_pts: dict[int, list[FrameRequest]] = {}
        for request, index in zip(requests, chosen.tolist(), strict=True):
            by_pts.setdefault(int(packets.pts[index]), []).append(request)
        to_rgb = _RgbConverter()
        for start, end in _decode_runs(packets, np.unique(chosen)):
            run_pts = packets.pts[start : end + 1].tolist()
            run = _Run(video, run_pts[0], run_pts[-1], by_pts.keys() & set(run_pts), counter)
            for pts, frame in run.frames():
                yield from ((request, to_rgb(frame, request.width_px)) for request in by_pts[pts])


def _choose_packets(clip: Clip, packets: Packets, timestamps: npt.NDArray[np.float64]) -> Ints:
    """Return the packet of each timestamp's frame: (N,) indices in decode order."""
    numbers = packets.frame_numbers(clip.from_timestamp, clip.fps)
    count = int(np.floor((clip.to_timestamp - clip.from_timestamp) * clip.fps + 0.5))
    # Packets of a neighbouring episode lie in the same file, and one may be nearer than half a frame period.
    own = np.flatnonzero((numbers >= 0) & (numbers < count) & packets.is_shown & packets.is_whole)
    own = own[np.argsort(packets.pts[own], kind="stable")]
    return own[_nearest_frames(clip, packets.seconds()[own] - clip.from_timestamp, timestamps, str(clip.path))]


def _nearest_frames(
    clip: Clip | ImageClip, seconds: npt.NDArray[np.float64], timestamps: npt.NDArray[np.float64], where: str
) -> Ints:
    """Return the index among `seconds` (ascending) nearest to each timestamp; refuse one that has no frame."""
    indices, distance = np.zeros(len(timestamps), np.int64), np.full(len(timestamps), np.inf)
    if len(seconds):
        indices = nearest(seconds, timestamps)
        distance = np.abs(seconds[indices] - timestamps)
    far = np.flatnonzero(~(distance <= 0.5 / clip.fps))  # NaN is far, too
    if len(far):
        time, off = timestamps[far[0]], distance[far[0]]
        raise FootageError(
            "no frame is shown at a wanted time",
            where=f"{where}, {clip.camera}, {time:.3f} s into the episode",
            got=f"the nearest is {off:.3f} s away" if np.isfinite(off) else "no frame at all near it",
            hint="the video is cut short, or its from_timestamp or fps in meta/ is not the file's",
        )
    return indices


def _decode_runs(packets: Packets, chosen: Ints) -> list[tuple[int, int]]:
    """Return the runs to decode, (first, last) indices in decode order, each from a key frame to a chosen frame."""
    keys = np.flatnonzero(packets.is_key)
    runs: list[tuple[int, int]] = []
    for last in chosen.tolist():
        # The key frame to start from comes no later in decode order and is shown no later, too: a frame shown before
        # the key frame that it follows (open groups of pictures) needs the group before.
        before = keys[: np.searchsorted(keys, last, "right")]
        usable = before[packets.pts[before] <= packets.pts[last]]
        first = int(usable[-1]) if len(usable) else 0
        while runs and first <= runs[-1][1] + 1:
            first = min(first, runs.pop()[0])
        runs.append((first, last))
    return runs


class _Run:
    """Decodes one run of packets and gives out the requested frames of it, with their pts."""

    def __init__(
        self, video: Video, first_pts: int, last_pts: int, requested: set[int], counter: DecodeCounter
    ) -> None:
        self._video = video
        self._first_pts, self._last_pts = first_pts, last_pts
        self._missing = requested
        self._counter = counter
        self._context = video.stream.codec_context
        self._skips = self._context.codec.canonical_name in SKIPPING_CODECS

    def frames(self) -> Iterator[tuple[int, av.VideoFrame]]:
        try:
            for packet in self._packets():
                yield from self._decode(packet)
                if not self._missing:
                    return
            yield from self._decode(None)
        except FFmpegError as cause:
            raise self._undecodable(str(cause)) from cause
        if self._missing:
            raise self._undecodable("the decoder gave no picture")

    def _packets(self) -> Iterator[VideoPacket]:
        begun = False
        for packet in packets_from(self._video, self._first_pts):  # its seek also empties the decoder
            pts = shown_at(packet)
            begun = begun or pts == self._first_pts
            if not begun:
                continue
            if self._skips:
                self._context.skip_frame = "DEFAULT" if pts in self._missing else "NONREF"
            yield packet
            if pts == self._last_pts:
                return

    def _decode(self, packet: VideoPacket | None) -> Iterator[tuple[int, av.VideoFrame]]:
        for frame in self._context.decode(packet):
            self._counter.frames += 1
            # Decoders patch over what they cannot read: every later frame of the run is then a guess.
            if frame.is_corrupt and self._missing:
                raise self._undecodable("a frame that it is made from is damaged")
            if frame.pts in self._missing:
                self._missing.discard(frame.pts)
                yield frame.pts, frame

    def _undecodable(self, got: str) -> FootageError:
        return FootageError(
            "a frame cannot be decoded",
            where=f"{self._video.path} at {float(min(self._missing) * self._video.time_base):.3f} s",
            got=got.partition("\n")[0],
            hint="the file is damaged there; fetch it again, or leave the episode out with --only_episodes",
        )


class _RgbConverter:
    """Turns frames into RGB at a width, straight from the decoder's own pixel format."""

    def __init__(self) -> None:
        # One for each width: a reformatter keeps the tables of the last size it saw.
        self._reformatters: dict[int, VideoReformatter] = {}

    def __call__(self, frame: av.VideoFrame, width_px: int) -> Pixels:
        reformatter = self._reformatters.setdefault(width_px, VideoReformatter())
        width, height = scaled_size(frame.width, frame.height, width_px)
        scaled = reformatter.reformat(frame, width, height, "rgb24", interpolation="AREA")
        return np.asarray(scaled.to_ndarray(), np.uint8)


def _read_images(
    clip: ImageClip, requests: Sequence[FrameRequest], counter: DecodeCounter
) -> Iterator[tuple[FrameRequest, Pixels]]:
    timestamps = np.array([request.timestamp for request in requests])
    seconds = clip.frame_timestamps[: len(clip.images)].astype(np.float64)
    indices = _nearest_frames(clip, seconds, timestamps, str(clip.root))
    for request, index in zip(requests, indices.tolist(), strict=True):
        with _stored_image(clip, index) as image:
            counter.frames += 1
            rgb = image.convert("RGB").resize(scaled_size(*image.size, request.width_px), Image.Resampling.BILINEAR)
        yield request, np.asarray(rgb)


@contextmanager
def _stored_image(clip: ImageClip, index: int) -> Generator[Image.Image]:
    """Open one stored image by its header; an error while it is decoded inside the block is translated, too."""
    try:
        yield Image.open(BytesIO(image_bytes(clip, index)))
    # An unknown format is an OSError; Pillow calls a broken PNG chunk a syntax error.
    except (OSError, SyntaxError, Image.DecompressionBombError) as cause:
        raise FootageError(
            "a stored image cannot be decoded",
            where=f"{clip.camera}, frame {index}",
            got=str(cause),
            hint="the data shard is damaged there; fetch it again",
        ) from cause
