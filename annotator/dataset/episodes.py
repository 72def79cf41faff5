"""Read a dataset's episodes: where each lies, what identifies it, and what its cameras' footage digests to.

Scans and demuxing are remembered by (path, size, mtime_ns) in the log's cache, so a warm run only stats files.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from annotator.dataset.cameras import color_cameras
from annotator.dataset.episode_record import EpisodeRecord
from annotator.dataset.footage import FootageDigests, digest_footage, file_stamp, remember_images
from annotator.dataset.metadata import Camera, Dataset, EpisodeMetadata
from annotator.dataset.shard_scan import ACTION, STATE, EpisodeScan, scan_shard
from annotator.errors import DatasetError
from annotator_store.digests import digest_parts
from annotator_store.log.log import Log

_SCANS = "scan.v2"
_VERSIONS_HINT = "meta/episodes and data/ come from different versions of the dataset"


def read_episodes(
    dataset: Dataset, log: Log, cameras: Sequence[Camera], wanted: Iterable[int], *, threads: int
) -> list[EpisodeRecord]:
    """Read every episode of a dataset, in order of index.

    Footage of `cameras` is digested only where it is not remembered, and only for the episodes whose index is `wanted`
    or that nothing but their footage identifies.

    Raises:
        DatasetError: the shards and `meta/episodes` disagree, or a shard cannot be read.
    """
    scans = _by_index(dataset, _scan_shards(dataset, log, threads))
    records = [locate_episode(dataset, metadata, scans.get(metadata.index)) for metadata in dataset.episodes]
    wanted_indices = set(wanted)
    in_use = {camera.key for camera in cameras}
    digests: dict[str, FootageDigests] = {}
    for camera in color_cameras(dataset):
        # Where no signal moves, all cameras together identify the episode, also one that is not wanted: what is
        # recorded of its shard names it. Else only the cameras in use matter.
        needed = [
            record
            for record in records
            if record.motion_digest is None or (record.index in wanted_indices and camera.key in in_use)
        ]
        digests[camera.key] = digest_footage(dataset, log, camera, needed, threads=threads) if needed else {}
    return [
        record.with_footage({key: known[record.index] for key, known in digests.items() if record.index in known})
        for record in records
    ]


def locate_episode(dataset: Dataset, metadata: EpisodeMetadata, scan: EpisodeScan | None) -> EpisodeRecord:
    """Join what `meta/episodes` and the data shard say of an episode, and check that they agree.

    Raises:
        DatasetError: the shard has no frames of it, or another number of them.
    """
    where = f"{dataset.root / metadata.shard} episode {metadata.index}"
    if scan is None:
        raise DatasetError("an episode has no frames", where=where, hint=_VERSIONS_HINT)
    if scan.stop - scan.start != metadata.length:
        got = f"{scan.stop - scan.start} frames, meta/episodes says {metadata.length}"
        raise DatasetError("an episode's length disagrees", where=where, got=got, hint=_VERSIONS_HINT)
    return join_record(dataset, metadata, scan)


def join_record(dataset: Dataset, metadata: EpisodeMetadata, scan: EpisodeScan) -> EpisodeRecord:
    """Join what `meta/episodes` and a scan say of an episode, as they stand; its footage is not looked at yet."""
    tasks = [dataset.tasks[index] for index in scan.task_indices if index in dataset.tasks]
    return EpisodeRecord(
        **msgspec.structs.asdict(scan),
        videos=metadata.videos,
        task=", then ".join(tasks or metadata.tasks),
        digest=scan.identity({}),
    )


def _by_index(dataset: Dataset, scans: Mapping[str, Sequence[EpisodeScan]]) -> dict[int, EpisodeScan]:
    """Index the scans, and refuse frames that lie where `meta/episodes` lists no such episode."""
    shard_of = {metadata.index: metadata.shard for metadata in dataset.episodes}
    by_index: dict[int, EpisodeScan] = {}
    for shard, shard_scans in scans.items():
        for scan in shard_scans:
            listed = shard_of.get(scan.index)
            if listed != shard:
                got = f"meta/episodes says {listed}" if listed else "meta/episodes does not list it"
                where = f"{dataset.root / shard} episode {scan.index}"
                raise DatasetError("frames lie where no episode is listed", where=where, got=got, hint=_VERSIONS_HINT)
            by_index[scan.index] = scan
    return by_index


def _scan_stamp(dataset: Dataset, path: Path) -> str:
    """A scan depends on its shard, and on the names that info.json gives to what is in it."""
    names = digest_parts("names.v1", ["\0".join(dataset.names_of(feature)).encode() for feature in (STATE, ACTION)])
    return f"{file_stamp(path)}:{names}"


def _scan_shards(dataset: Dataset, log: Log, threads: int) -> dict[str, list[EpisodeScan]]:
    """Scan the shards that changed since they were last scanned; what is remembered of the others is taken."""
    paths = {shard: (dataset.root / shard).absolute() for shard in dataset.shards}
    stamps = {shard: _scan_stamp(dataset, path) for shard, path in paths.items()}
    memo = log.memo_get(_SCANS, [str(path) for path in paths.values()])
    scans: dict[str, list[EpisodeScan]] = {}
    for shard, path in paths.items():
        stamp, text = memo.get(str(path), ("", ""))
        if stamp and stamp == stamps[shard]:
            scans[shard] = msgspec.json.decode(text, type=list[EpisodeScan])
    missing = [shard for shard in dataset.shards if shard not in scans]
    with ThreadPoolExecutor(threads) as pool:
        fresh = dict(zip(missing, pool.map(lambda shard: scan_shard(dataset, shard), missing), strict=True))
    log.memo_put(_SCANS, {str(paths[s]): (stamps[s], msgspec.json.encode(fresh[s]).decode()) for s in missing})
    return scans | fresh


def remember_written(dataset: Dataset, log: Log, written: Mapping[str, Path], records: Sequence[EpisodeRecord]) -> None:
    """Remember scans and images of shards that were just rewritten in place: all but the language is as it was."""
    shards = [shard for shard, path in written.items() if path == dataset.root / shard]
    scans: defaultdict[str, list[EpisodeScan]] = defaultdict(list)
    for record in records:
        scans[record.shard].append(record.as_scan())
    paths = {shard: (dataset.root / shard).absolute() for shard in shards}
    log.memo_put(
        _SCANS, {str(p): (_scan_stamp(dataset, p), msgspec.json.encode(scans[s]).decode()) for s, p in paths.items()}
    )
    for camera in color_cameras(dataset):
        if camera.stored == "image":
            remember_images(dataset, log, camera, shards, records)
