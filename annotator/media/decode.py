"""Exact frames by timestamp, decoding no more than they need.

Decoders start at key frames. One pass over the packets says which groups of pictures hold a wanted frame; only those
are decoded, forward, and only as far as the last wanted frame in each. Other frames are never converted to RGB.
"""

from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO

import av
import msgspec
import numpy as np
import numpy.typing as npt
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from PIL import Image, UnidentifiedImageError

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
    """Counts frames that a decoder gave out, wanted or not. One reader writes to it."""

    def __init__(self) -> None:
        self.frames = 0


def read_frames(
    clip: Clip | ImageClip, timestamps: Sequence[float], width_px: int | None = None, tally: DecodeCounter | None = None
) -> Iterator[tuple[float, Pixels]]:
    """Read the frames at these times, ascending, each once, as (timestamp, (H, W, 3) uint8 RGB).

    A frame is the one shown nearest to the timestamp, and within half a frame period of it. A tighter bound would
    refuse files whose container rounds times (29.97 Hz in milliseconds); with a looser one the nearest frame could be
    another one than was recorded. One frame is alive at a time; the caller owns each array.

    Raises:
        FootageError: the file or image cannot be read, or no frame is shown there.
    """
    for want, pixels in read_wanted(clip, (FrameRequest(time, width_px or 0) for time in timestamps), tally):
        yield want.timestamp, pixels


def read_wanted(
    clip: Clip | ImageClip, wants: Iterable[FrameRequest], tally: DecodeCounter | None = None
) -> Iterator[tuple[FrameRequest, Pixels]]:
    """Read frames at several sizes in one forward pass; otherwise as `read_frames`.

    Raises:
        FootageError: as `read_frames`.
    """
    ordered = sorted(set(wants))
    if not ordered:
        return
    counted = tally or DecodeCounter()
    if isinstance(clip, ImageClip):
        yield from _read_images(clip, ordered, counted)
    else:
        yield from _read_video(clip, ordered, counted)


def frame_size(clip: Clip | ImageClip) -> tuple[int, int]:
    """The stored width and height in pixels, from the header alone.

    Raises:
        FootageError: the header cannot be read.
    """
    if isinstance(clip, ImageClip):
        return _open_image(clip, 0).size
    with open_video(clip.path) as video:
        return video.stream.codec_context.width, video.stream.codec_context.height


def scaled_size(width: int, height: int, width_px: int) -> tuple[int, int]:
    """The size at a wanted width (0: the stored one), height following the aspect ratio, at least 1."""
    if not width_px:
        return width, height
    return width_px, max(1, round(height * width_px / width))


def _read_video(
    clip: Clip, wants: Sequence[FrameRequest], tally: DecodeCounter
) -> Iterator[tuple[FrameRequest, Pixels]]:
    period = 1 / clip.fps
    with open_video(clip.path) as video:
        first, last = (clip.from_timestamp + want.timestamp for want in (wants[0], wants[-1]))
        packets = scan(video, first - period, last + period)
        chosen = _choose(clip, packets, np.array([want.timestamp for want in wants]))
        by_pts: dict[int, list[FrameRequest]] = {}
        for want, index in zip(wants, chosen.tolist(), strict=True):
            by_pts.setdefault(int(packets.pts[index]), []).append(want)
        scale = _Scaler()
        for start, end in _runs(packets, np.unique(chosen)):
            run = packets.pts[start : end + 1].tolist()
            decoder = _Run(video, packets, start, end, {pts for pts in run if pts in by_pts}, tally)
            for frame in decoder.frames():
                yield from ((want, scale(frame, want.width_px)) for want in by_pts[_pts(frame)])


def _choose(clip: Clip, packets: Packets, timestamps: npt.NDArray[np.float64]) -> Ints:
    """The packet of each timestamp's frame, (W,) indices in decode order."""
    slots = packets.slots(clip.from_timestamp, clip.fps)
    count = int(np.floor((clip.to_timestamp - clip.from_timestamp) * clip.fps + 0.5))
    own = np.flatnonzero((slots >= 0) & (slots < count) & packets.is_shown & packets.is_whole)
    own = own[np.argsort(packets.pts[own], kind="stable")]
    seconds = packets.seconds()[own] - clip.from_timestamp
    indices, distance = _nearest(seconds, timestamps)
    _refuse_far(clip, timestamps, distance, str(clip.path))
    return own[indices]


def _nearest(
    seconds: npt.NDArray[np.float64], timestamps: npt.NDArray[np.float64]
) -> tuple[Ints, npt.NDArray[np.float64]]:
    """For each timestamp, the index of the nearest of the ascending `seconds`, and how far it is off."""
    if not len(seconds):
        return np.zeros(len(timestamps), np.int64), np.full(len(timestamps), np.inf)
    indices = nearest(seconds, timestamps)
    return indices, np.abs(seconds[indices] - timestamps)


def _refuse_far(
    clip: Clip | ImageClip,
    timestamps: npt.NDArray[np.float64],
    distance: npt.NDArray[np.float64],
    where: str,
) -> None:
    far = np.flatnonzero(~(distance <= 0.5 / clip.fps))
    if len(far):
        time, off = timestamps[far[0]], distance[far[0]]
        raise FootageError(
            "no frame is shown at a wanted time",
            where=f"{where}, {clip.camera}, {time:.3f} s into the episode",
            got=f"the nearest is {off:.3f} s away" if np.isfinite(off) else "no frame at all near it",
            hint="the video is cut short, or its from_timestamp or fps in meta/ is not the file's",
        )


def _runs(packets: Packets, wanted: Ints) -> list[tuple[int, int]]:
    """The stretches to decode, as (first, last) in decode order, each from a key frame to a wanted frame."""
    keys = np.flatnonzero(packets.is_key)
    runs: list[tuple[int, int]] = []
    for last in wanted.tolist():
        first = _key_before(packets, keys, last)
        while runs and first <= runs[-1][1] + 1:
            first = min(first, runs.pop()[0])
        runs.append((first, last))
    return runs


def _key_before(packets: Packets, keys: Ints, index: int) -> int:
    """The key frame to start from: the last one before a packet in decode order that is also shown no later.

    A frame shown before the key frame that it follows (open groups of pictures) needs the group before.
    """
    before = keys[: np.searchsorted(keys, index, "right")]
    usable = before[packets.pts[before] <= packets.pts[index]]
    return int(usable[-1]) if len(usable) else 0


class _Run:
    """Decodes one run of packets and gives out the wanted frames of it."""

    def __init__(
        self, video: Video, packets: Packets, first: int, last: int, wanted: set[int], tally: DecodeCounter
    ) -> None:
        self._video = video
        self._first_pts, self._last_pts = int(packets.pts[first]), int(packets.pts[last])
        self._missing = wanted
        self._tally = tally
        self._context = video.stream.codec_context
        self._skips = self._context.codec.canonical_name in SKIPPING_CODECS

    def frames(self) -> Iterator[av.VideoFrame]:
        try:
            for packet in self._packets():
                yield from self._feed(packet)
                if not self._missing:
                    return
            yield from self._feed(None)
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

    def _feed(self, packet: VideoPacket | None) -> Iterator[av.VideoFrame]:
        for frame in self._context.decode(packet):
            self._tally.frames += 1
            # Decoders patch over what they cannot read: every later frame of the run is then a guess.
            if frame.is_corrupt and self._missing:
                raise self._undecodable("a frame that it is made from is damaged")
            if _pts(frame) in self._missing:
                self._missing.discard(_pts(frame))
                yield frame

    def _undecodable(self, got: str) -> FootageError:
        time_base = self._video.stream.time_base or 0
        return FootageError(
            "a frame cannot be decoded",
            where=f"{self._video.path} at {float(min(self._missing) * time_base):.3f} s",
            got=got.partition("\n")[0],
            hint="the file is damaged there; fetch it again, or leave the episode out with --only_episodes",
        )


class _Scaler:
    """Turns frames into RGB at a width, straight from the decoder's own pixel format."""

    def __init__(self) -> None:
        # One for each width: a reformatter keeps the tables of the last size it saw.
        self._reformatters: dict[int, VideoReformatter] = {}

    def __call__(self, frame: av.VideoFrame, width_px: int) -> Pixels:
        reformatter = self._reformatters.setdefault(width_px, VideoReformatter())
        width, height = scaled_size(frame.width, frame.height, width_px)
        scaled = reformatter.reformat(frame, width, height, "rgb24", interpolation="AREA")
        return np.asarray(scaled.to_ndarray(), np.uint8)


def _pts(frame: av.VideoFrame) -> int:
    return frame.pts if frame.pts is not None else -1


def _read_images(
    clip: ImageClip, wants: Sequence[FrameRequest], tally: DecodeCounter
) -> Iterator[tuple[FrameRequest, Pixels]]:
    times = np.array([want.timestamp for want in wants])
    indices, distance = _nearest(clip.frame_timestamps[: len(clip.images)].astype(np.float64), times)
    _refuse_far(clip, times, distance, str(clip.root))
    for want, index in zip(wants, indices.tolist(), strict=True):
        image = _open_image(clip, index)
        tally.frames += 1
        try:
            rgb = image.convert("RGB").resize(scaled_size(*image.size, want.width_px), Image.Resampling.BILINEAR)
        except (OSError, SyntaxError) as cause:  # Pillow calls a broken PNG chunk a syntax error
            raise _damaged(clip, index, cause) from cause
        yield want, np.asarray(rgb)


def _open_image(clip: ImageClip, index: int) -> Image.Image:
    try:
        return Image.open(BytesIO(image_bytes(clip, index)))
    except (UnidentifiedImageError, Image.DecompressionBombError) as cause:
        raise _damaged(clip, index, cause) from cause


def _damaged(clip: ImageClip, index: int, cause: Exception) -> FootageError:
    return FootageError(
        "a stored image cannot be decoded",
        where=f"{clip.camera}, frame {index}",
        got=str(cause),
        hint="the data shard is damaged there; fetch it again",
    )
