"""Reels: find each episode's footage of one camera and digest it, remembering what was learned of a file by its stamp.

Video-stored cameras are demuxed file by file; image-stored ones are read from the data shard episode by episode.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from annotator.dataset.metadata import Camera, Dataset, EpisodeMetadata
from annotator.dataset.shard_scan import EpisodeScan, read_frames_table
from annotator.errors import FootageError
from annotator.media.clips import Clip, ImageClip
from annotator_store.digests import Digest
from annotator_store.log.log import Log

_MEMO = "footage.v1"
_NO_CLOCK = np.empty(0, np.float32)

Digests = dict[int, Digest | FootageError]


class Reel(msgspec.Struct, frozen=True):
    """One episode to find the footage of."""

    episode: EpisodeMetadata
    scanned: EpisodeScan


def file_stamp(path: Path) -> str:
    """Name the state a file is in, so that what was learned of it can be remembered; "" where there is none."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}"


def digest_footage(dataset: Dataset, log: Log, camera: Camera, reels: Sequence[Reel], *, threads: int) -> Digests:
    """Digest one camera's footage of some episodes, by episode index; what cannot be read stands there as its error."""
    by_file: defaultdict[Path, list[Reel]] = defaultdict(list)
    for reel in reels:
        by_file[footage_file(dataset, camera, reel.episode)].append(reel)
    names = {path: _memo_name(path, camera) for path in by_file}
    held = log.memo_get(_MEMO, list(names.values()))
    stamps = {path: _stamp(dataset, path) for path in by_file}
    known = {path: _remembered(held.get(names[path]), stamps[path]) for path in by_file}
    stale = [path for path, here in by_file.items() if any(_place(camera, r) not in known[path] for r in here)]
    with ThreadPoolExecutor(threads) as pool:
        fresh = dict(zip(stale, pool.map(lambda path: digest_file(dataset, camera, by_file[path]), stale), strict=True))
    for path, digests in fresh.items():
        good = {_place(camera, r): digests[r.episode.index] for r in by_file[path]}
        known[path] |= {place: d for place, d in good.items() if not isinstance(d, FootageError)}
    log.memo_put(_MEMO, {names[p]: (stamps[p], msgspec.json.encode(known[p]).decode()) for p in stale if stamps[p]})
    return {
        r.episode.index: fresh[path][r.episode.index] if path in fresh else known[path][_place(camera, r)]
        for path, here in by_file.items()
        for r in here
    }


def remember_images(
    dataset: Dataset, log: Log, camera: Camera, shards: Iterable[str], found: Sequence[tuple[Reel, Digest]]
) -> None:
    """Remember the digests of an image-stored camera in shards that were just rewritten: its column is as it was."""
    items: dict[str, tuple[str, str]] = {}
    for shard in shards:
        path = dataset.root / shard
        places = {_place(camera, reel): digest for reel, digest in found if reel.episode.shard == shard}
        items[_memo_name(path, camera)] = (_stamp(dataset, path), msgspec.json.encode(places).decode())
    log.memo_put(_MEMO, items)


def clip_of(dataset: Dataset, camera: Camera, reel: Reel, clock: npt.NDArray[np.float32]) -> Clip | ImageClip:
    """Locate an episode's footage of one camera; `clock` is (T,) float32 seconds."""
    if camera.stored == "image":
        episode, scanned = reel.episode, reel.scanned
        table = read_frames_table(dataset.root, episode.shard, scanned.start, scanned.stop, [camera.key])
        images = table[camera.key].combine_chunks()
        return ImageClip(images=images, root=dataset.root, frame_timestamps=clock, fps=dataset.fps, camera=camera.key)
    return _video_clip(dataset, camera, reel.episode, clock)


def _video_clip(dataset: Dataset, camera: Camera, episode: EpisodeMetadata, clock: npt.NDArray[np.float32]) -> Clip:
    stretch = episode.videos[camera.key]
    return Clip(
        path=dataset.root / stretch.path,
        from_timestamp=stretch.from_timestamp,
        to_timestamp=stretch.to_timestamp,
        frame_timestamps=clock,
        fps=dataset.fps,
        camera=camera.key,
    )


def footage_file(dataset: Dataset, camera: Camera, episode: EpisodeMetadata) -> Path:
    """Name the file that holds a camera's footage of an episode."""
    return dataset.root / (episode.shard if camera.stored == "image" else episode.videos[camera.key].path)


def _stamp(dataset: Dataset, path: Path) -> str:
    """Footage depends on its file, and on the frame rate by which its frames are numbered; "" without a file."""
    stamp = file_stamp(path)
    return f"{stamp}:{dataset.fps!r}" if stamp else ""


def _memo_name(path: Path, camera: Camera) -> str:
    return f"{path.absolute()}#{camera.key}"


def _place(camera: Camera, reel: Reel) -> str:
    """Name an episode's place in its file."""
    if camera.stored == "image":
        return f"{reel.scanned.start}:{reel.scanned.stop}"
    stretch = reel.episode.videos[camera.key]
    return f"{stretch.from_timestamp!r}:{stretch.to_timestamp!r}"


def _remembered(held: tuple[str, str] | None, stamp: str) -> dict[str, Digest]:
    if held is None or not stamp or held[0] != stamp:
        return {}
    return msgspec.json.decode(held[1], type=dict[str, Digest])


def digest_file(dataset: Dataset, camera: Camera, reels: Sequence[Reel]) -> Digests:
    """Digest the episodes of one file, by episode index; what cannot be read stands there as its error."""
    if camera.stored == "image":
        return {reel.episode.index: _image_digest(dataset, camera, reel) for reel in reels}
    from annotator.media.demux import file_digests  # PyAV is loaded only when footage is new

    clips = [_video_clip(dataset, camera, reel.episode, _NO_CLOCK) for reel in reels]
    try:
        digests = file_digests(clips[0].path, clips)
    except FootageError as error:
        return {reel.episode.index: error for reel in reels}
    return {reel.episode.index: digest for reel, digest in zip(reels, digests, strict=True)}


def _image_digest(dataset: Dataset, camera: Camera, reel: Reel) -> Digest | FootageError:
    from annotator.media.demux import images_digest

    clip = clip_of(dataset, camera, reel, _NO_CLOCK)
    assert isinstance(clip, ImageClip)
    try:
        return images_digest(clip)
    except FootageError as error:
        return error
