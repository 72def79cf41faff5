"""Find each episode's footage of one camera and digest it; a digest is remembered by its file's stamp.

Video-stored cameras are demuxed file by file; image-stored ones are read from the data shard episode by episode.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from annotator.dataset.episode_record import EpisodeRecord
from annotator.dataset.metadata import Camera, Dataset
from annotator.dataset.shard_scan import read_frames_table
from annotator.errors import FootageError
from annotator.media.clips import Clip, ImageClip
from annotator_store.digests import Digest
from annotator_store.log.log import Log

FootageDigests = dict[int, Digest | FootageError]
"""Episode index → the digest of one camera's footage, or why that cannot be read."""

_MEMO = "footage.v1"
_NO_TIMESTAMPS = np.empty(0, np.float32)


def file_stamp(path: Path) -> str:
    """Name the state a file is in, so that what was learned of it can be remembered; "" where there is none."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}"


def digest_footage(
    dataset: Dataset, log: Log, camera: Camera, records: Sequence[EpisodeRecord], *, threads: int
) -> FootageDigests:
    """Digest one camera's footage of some episodes; only files that changed since they were last read are opened."""
    by_file: defaultdict[Path, list[EpisodeRecord]] = defaultdict(list)
    for record in records:
        by_file[footage_file(dataset, camera, record)].append(record)
    names = {path: _memo_name(path, camera) for path in by_file}
    memo = log.memo_get(_MEMO, list(names.values()))
    stamps = {path: _stamp(dataset, path) for path in by_file}
    known: dict[Path, dict[str, Digest]] = {}
    for path in by_file:
        stamp, text = memo.get(names[path], ("", ""))
        known[path] = msgspec.json.decode(text, type=dict[str, Digest]) if stamp and stamp == stamps[path] else {}
    stale = [path for path, inside in by_file.items() if any(_place(camera, r) not in known[path] for r in inside)]
    with ThreadPoolExecutor(threads) as pool:
        fresh = dict(zip(stale, pool.map(lambda path: digest_file(dataset, camera, by_file[path]), stale), strict=True))
    for path, digests in fresh.items():
        good = {_place(camera, record): digests[record.index] for record in by_file[path]}
        known[path] |= {place: digest for place, digest in good.items() if not isinstance(digest, FootageError)}
    log.memo_put(_MEMO, {names[p]: (stamps[p], msgspec.json.encode(known[p]).decode()) for p in stale if stamps[p]})
    return {
        record.index: fresh[path][record.index] if path in fresh else known[path][_place(camera, record)]
        for path, inside in by_file.items()
        for record in inside
    }


def remember_images(
    dataset: Dataset, log: Log, camera: Camera, shards: Iterable[str], records: Sequence[EpisodeRecord]
) -> None:
    """Remember the digests of an image-stored camera in shards that were just rewritten: its column is as it was."""
    known = [record for record in records if camera.key in record.footage]
    items: dict[str, tuple[str, str]] = {}
    for shard in shards if known else ():
        path = dataset.root / shard
        places = {_place(camera, record): record.footage[camera.key] for record in known if record.shard == shard}
        items[_memo_name(path, camera)] = (_stamp(dataset, path), msgspec.json.encode(places).decode())
    log.memo_put(_MEMO, items)


def locate_clip(
    dataset: Dataset, camera: Camera, record: EpisodeRecord, timestamps: npt.NDArray[np.float32]
) -> Clip | ImageClip:
    """Locate an episode's footage of one camera. `timestamps`: (T,) float32 seconds from the episode's first frame."""
    if camera.stored == "image":
        table = read_frames_table(dataset.root, record, [camera.key])
        images = table[camera.key].combine_chunks()
        return ImageClip(
            images=images, root=dataset.root, frame_timestamps=timestamps, fps=dataset.fps, camera=camera.key
        )
    return _video_clip(dataset, camera, record, timestamps)


def _video_clip(dataset: Dataset, camera: Camera, record: EpisodeRecord, timestamps: npt.NDArray[np.float32]) -> Clip:
    span = record.videos[camera.key]
    return Clip(
        path=dataset.root / span.path,
        from_timestamp=span.from_timestamp,
        to_timestamp=span.to_timestamp,
        frame_timestamps=timestamps,
        fps=dataset.fps,
        camera=camera.key,
    )


def footage_file(dataset: Dataset, camera: Camera, record: EpisodeRecord) -> Path:
    """Return the file that holds a camera's footage of an episode."""
    return dataset.root / (record.shard if camera.stored == "image" else record.videos[camera.key].path)


def digest_file(dataset: Dataset, camera: Camera, records: Sequence[EpisodeRecord]) -> FootageDigests:
    """Digest the footage of the episodes that lie in one file."""
    # PyAV is loaded only when footage is new.
    from annotator.media.demux import file_digests

    if camera.stored == "image":
        return {record.index: _image_digest(dataset, camera, record) for record in records}
    clips = [_video_clip(dataset, camera, record, _NO_TIMESTAMPS) for record in records]
    try:
        digests = file_digests(clips[0].path, clips)
    except FootageError as error:
        return {record.index: error for record in records}
    return {record.index: digest for record, digest in zip(records, digests, strict=True)}


def _image_digest(dataset: Dataset, camera: Camera, record: EpisodeRecord) -> Digest | FootageError:
    from annotator.media.demux import images_digest

    clip = locate_clip(dataset, camera, record, _NO_TIMESTAMPS)
    assert isinstance(clip, ImageClip)
    try:
        return images_digest(clip)
    except FootageError as error:
        return error


def _stamp(dataset: Dataset, path: Path) -> str:
    """Footage depends on its file, and on the frame rate by which its frames are numbered; "" without a file."""
    stamp = file_stamp(path)
    return f"{stamp}:{dataset.fps!r}" if stamp else ""


def _memo_name(path: Path, camera: Camera) -> str:
    return f"{path.absolute()}#{camera.key}"


def _place(camera: Camera, record: EpisodeRecord) -> str:
    """Name an episode's place in its file: rows of a shard, or seconds of a video."""
    if camera.stored == "image":
        return f"{record.start}:{record.stop}"
    span = record.videos[camera.key]
    return f"{span.from_timestamp!r}:{span.to_timestamp!r}"
