"""Survey a dataset: which episodes it has, what identifies each, and what its camera's footage digests to.

Scans and demuxing are remembered by (path, size, mtime_ns) in the log's cache, so a warm run only stats files.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from annotator.clips import Clip
from annotator.dataset import Camera, Dataset, Episode, Stretch
from annotator.errors import DatasetError, FootageError, UsageError
from annotator.scan import ScannedEpisode, footage_identity, scan_shard
from store.digest import Digest
from store.log import Log


class Surveyed(msgspec.Struct, frozen=True, kw_only=True):
    """One episode, located and identified.

    `footage` is None where there is no camera, or where it cannot be read; `trouble` then says why.
    """

    episode: Episode
    scanned: ScannedEpisode
    digest: Digest
    task: str
    camera: str | None
    footage: Digest | None
    trouble: FootageError | None = None


def watched_camera(dataset: Dataset, camera_key: str | None) -> Camera | None:
    """Choose the camera to watch: the named one, else the first that is stored as video and shows no depth.

    Raises:
        UsageError: the named camera does not exist or cannot be watched.
    """
    usable = [c for c in dataset.cameras if c.stored == "video" and not c.depth]
    if camera_key is None:
        return usable[0] if usable else None
    chosen = next((c for c in usable if c.key == camera_key), None)
    if chosen is None:
        hint = f"cameras: {', '.join(c.key for c in usable) or 'none'}"
        raise UsageError("no such camera", where="--vlm.camera_key", got=camera_key, hint=hint)
    return chosen


def survey(dataset: Dataset, log: Log, camera: Camera | None, wanted: Iterable[int], *, threads: int) -> list[Surveyed]:
    """Survey every episode; footage is digested for the wanted ones only, and only where it is not remembered.

    Raises:
        DatasetError: the shards and `meta/episodes` disagree, or a shard cannot be read.
    """
    scans = _located(dataset, _scans(dataset, log, threads))
    chosen = set(wanted)
    footage = _footage(dataset, log, camera, [e for e in dataset.episodes if e.index in chosen], threads)
    return [_surveyed(dataset, episode, scans, camera, footage) for episode in dataset.episodes]


def _surveyed(
    dataset: Dataset,
    episode: Episode,
    scans: Mapping[int, ScannedEpisode],
    camera: Camera | None,
    footage: Mapping[int, Digest | FootageError],
) -> Surveyed:
    scanned = scans.get(episode.index)
    where = f"{dataset.root / episode.shard} episode {episode.index}"
    if scanned is None:
        hint = "meta/episodes and data/ come from different versions of the dataset"
        raise DatasetError("an episode has no frames", where=where, hint=hint)
    if scanned.stop - scanned.start != episode.length:
        got = f"{scanned.stop - scanned.start} frames, meta/episodes says {episode.length}"
        hint = "meta/episodes and data/ come from different versions of the dataset"
        raise DatasetError("an episode's length disagrees", where=where, got=got, hint=hint)
    seen = footage.get(episode.index)
    trouble = seen if isinstance(seen, FootageError) else None
    digest = None if isinstance(seen, FootageError) else seen
    identity = scanned.motion or footage_identity(scanned.clock, (digest,) if digest else ())
    return Surveyed(
        episode=episode,
        scanned=scanned,
        digest=identity,
        task=_task(dataset, episode, scanned),
        camera=camera.key if camera else None,
        footage=digest,
        trouble=trouble,
    )


def _task(dataset: Dataset, episode: Episode, scanned: ScannedEpisode) -> str:
    texts = [dataset.tasks[i] for i in scanned.task_indices if i in dataset.tasks]
    return ", then ".join(texts or episode.tasks)


def file_stamp(path: Path) -> str:
    """Name the state a file is in, so that what was learned of it can be remembered; "" where there is none."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_size}:{status.st_mtime_ns}"


_SCANS, _FOOTAGE = "scan.v1", "footage.v1"


def _located(dataset: Dataset, scans: Mapping[str, Sequence[ScannedEpisode]]) -> dict[int, ScannedEpisode]:
    """Find each episode where `meta/episodes` says it lies, and no frames anywhere else."""
    home = {episode.index: episode.shard for episode in dataset.episodes}
    located: dict[int, ScannedEpisode] = {}
    for shard, found in scans.items():
        for scan in found:
            if home.get(scan.index) != shard:
                says = home.get(scan.index)
                got = f"meta/episodes says {says}" if says else "meta/episodes does not list it"
                hint = "meta/episodes and data/ come from different versions of the dataset"
                where = f"{dataset.root / shard} episode {scan.index}"
                raise DatasetError("frames lie where no episode is listed", where=where, got=got, hint=hint)
            located[scan.index] = scan
    return located


def _scans(dataset: Dataset, log: Log, threads: int) -> dict[str, list[ScannedEpisode]]:
    paths = {shard: (dataset.root / shard).absolute() for shard in dataset.shards}
    stamps = {shard: file_stamp(path) for shard, path in paths.items()}
    held = log.memo_get(_SCANS, [str(p) for p in paths.values()])
    found: dict[str, list[ScannedEpisode]] = {}
    for shard, path in paths.items():
        stamp, value = held.get(str(path), ("", ""))
        if stamp and stamp == stamps[shard]:
            found[shard] = msgspec.json.decode(value, type=list[ScannedEpisode])
    missing = [shard for shard in dataset.shards if shard not in found]
    with ThreadPoolExecutor(threads) as pool:
        scanned = dict(zip(missing, pool.map(lambda shard: scan_shard(dataset, shard), missing), strict=True))
    log.memo_put(_SCANS, {str(paths[s]): (stamps[s], msgspec.json.encode(scanned[s]).decode()) for s in missing})
    return found | scanned


def remember_scan(dataset: Dataset, log: Log, written: Mapping[str, Path], surveyed: Iterable[Surveyed]) -> None:
    """Remember the scans of shards that were just rewritten: every column that a scan reads is as it was."""
    scans: defaultdict[str, list[ScannedEpisode]] = defaultdict(list)
    for one in surveyed:
        scans[one.episode.shard].append(one.scanned)
    items = {
        str(path.absolute()): (file_stamp(path), msgspec.json.encode(scans[shard]).decode())
        for shard, path in written.items()
        if path == dataset.root / shard
    }
    log.memo_put(_SCANS, items)


def _footage(
    dataset: Dataset, log: Log, camera: Camera | None, episodes: Sequence[Episode], threads: int
) -> dict[int, Digest | FootageError]:
    """Digest the watched camera's footage, file by file, taking what is remembered."""
    if camera is None:
        return {}
    by_file: defaultdict[str, list[Episode]] = defaultdict(list)
    for episode in episodes:
        by_file[episode.videos[camera.key].path].append(episode)
    files = {rel: (dataset.root / rel).absolute() for rel in by_file}
    held = log.memo_get(_FOOTAGE, [str(p) for p in files.values()])
    stamps = {rel: file_stamp(path) for rel, path in files.items()}
    known = {rel: _remembered(held.get(str(path)), stamps[rel]) for rel, path in files.items()}
    stale = [rel for rel in by_file if any(_place(e.videos[camera.key]) not in known[rel] for e in by_file[rel])]
    results: dict[int, Digest | FootageError] = {}
    with ThreadPoolExecutor(threads) as pool:
        for rel, digests in zip(stale, pool.map(lambda r: _demux(dataset, camera, by_file[r]), stale), strict=True):
            results |= digests
            places = {_place(e.videos[camera.key]): digests[e.index] for e in by_file[rel]}
            known[rel] |= {place: d for place, d in places.items() if not isinstance(d, FootageError)}
    fresh = {str(files[r]): (stamps[r], msgspec.json.encode(known[r]).decode()) for r in stale if stamps[r]}
    log.memo_put(_FOOTAGE, fresh)
    for rel in set(by_file) - set(stale):
        results |= {e.index: known[rel][_place(e.videos[camera.key])] for e in by_file[rel]}
    return results


def _remembered(held: tuple[str, str] | None, stamp: str) -> dict[str, Digest]:
    if held is None or not stamp or held[0] != stamp:
        return {}
    return msgspec.json.decode(held[1], type=dict[str, Digest])


def _place(stretch: Stretch) -> str:
    return f"{stretch.from_timestamp!r}:{stretch.to_timestamp!r}"


def _demux(dataset: Dataset, camera: Camera, episodes: Sequence[Episode]) -> dict[int, Digest | FootageError]:
    from annotator.footage import file_digests  # PyAV is loaded only when footage is new

    clips = [clip_of(dataset, camera.key, episode, np.empty(0, np.float32)) for episode in episodes]
    try:
        digests = file_digests(clips[0].path, clips)
    except FootageError as error:
        return {episode.index: error for episode in episodes}
    return {episode.index: digest for episode, digest in zip(episodes, digests, strict=True)}


def clip_of(dataset: Dataset, camera: str, episode: Episode, clock: npt.NDArray[np.float32]) -> Clip:
    """Locate an episode's footage of one camera; `clock` is (T,) float32 seconds."""
    stretch = episode.videos[camera]
    return Clip(
        path=dataset.root / stretch.path,
        from_timestamp=stretch.from_timestamp,
        to_timestamp=stretch.to_timestamp,
        frame_timestamps=clock,
        fps=dataset.fps,
        camera=camera,
    )
