"""Survey a dataset: which episodes it has, what identifies each, and what its cameras' footage digests to.

Scans and demuxing are remembered by (path, size, mtime_ns) in the log's cache, so a warm run only stats files.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from annotator.config.settings import SyncSettings
from annotator.dataset.footage import Digests, Reel, digest_footage, file_stamp, remember_images
from annotator.dataset.metadata import Camera, Dataset, EpisodeMetadata
from annotator.dataset.shard_scan import ACTION, STATE, EpisodeScan, footage_identity, scan_shard
from annotator.errors import DatasetError, FootageError, UsageError
from annotator_store.digests import Digest, digest_parts
from annotator_store.log.log import Log


class CameraSelection(msgspec.Struct, frozen=True, kw_only=True):
    """Which cameras a run looks through: `watched` in prompts about the whole episode, `asked` of single frames."""

    watched: tuple[Camera, ...]
    asked: tuple[Camera, ...]

    @property
    def all(self) -> tuple[Camera, ...]:
        """Every camera in use, once."""
        return tuple({camera.key: camera for camera in (*self.watched, *self.asked)}.values())


class EpisodeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One episode, located and identified.

    `footage` holds, by camera key, what can be read of the cameras in use; `troubles` says why the others cannot.
    `nameless` is set where the episode can be identified by its footage alone, and some of that cannot be read.
    """

    episode: EpisodeMetadata
    scanned: EpisodeScan
    digest: Digest
    task: str
    footage: dict[str, Digest]
    troubles: dict[str, FootageError] = msgspec.field(default_factory=dict[str, FootageError])
    nameless: FootageError | None = None

    @property
    def reel(self) -> Reel:
        """Where its footage is to be found."""
        return Reel(self.episode, self.scanned)

    def trouble(self, cameras: Iterable[Camera]) -> FootageError | None:
        """Say what is wrong with the footage of these cameras, or with the episode's identity."""
        return self.nameless or next((self.troubles[c.key] for c in cameras if c.key in self.troubles), None)


def color_cameras(dataset: Dataset) -> list[Camera]:
    """List the cameras that can be watched: those that show no depth."""
    return [camera for camera in dataset.cameras if not camera.depth]


def select_cameras(dataset: Dataset, settings: SyncSettings, needed: Collection[str]) -> CameraSelection:
    """Choose the cameras: the named ones, else the first that shows no depth; none where there is none.

    `needed`: what the enabled modules look at, of `episode` and `frame`; nothing is chosen for the other.

    Raises:
        UsageError: a named camera does not exist, shows depth, or is named twice.
    """
    usable = color_cameras(dataset)
    named, flag = settings.vlm.camera_keys, "--vlm.camera_keys"
    if not named and settings.vlm.camera_key is not None:
        named, flag = (settings.vlm.camera_key,), "--vlm.camera_key"
    watched = tuple(_named_camera(usable, key, flag) for key in named) or tuple(usable[:1])
    if len({camera.key for camera in watched}) < len(watched):
        raise UsageError("a camera is named twice", where=flag, got=", ".join(named), hint="name each once")
    asked = watched[:1] if settings.vqa.restrict_to_default_camera else tuple(usable)
    return CameraSelection(watched=watched if "episode" in needed else (), asked=asked if "frame" in needed else ())


def _named_camera(usable: Sequence[Camera], key: str, flag: str) -> Camera:
    chosen = next((camera for camera in usable if camera.key == key), None)
    if chosen is None:
        hint = f"cameras: {', '.join(c.key for c in usable) or 'none'}"
        raise UsageError("no such camera", where=flag, got=key, hint=hint)
    return chosen


def read_episodes(
    dataset: Dataset, log: Log, cameras: Sequence[Camera], wanted: Iterable[int], *, threads: int
) -> list[EpisodeRecord]:
    """Survey every episode; footage is digested only where it is not remembered, and only for the episodes that are
    wanted, or that nothing but their footage identifies.

    Raises:
        DatasetError: the shards and `meta/episodes` disagree, or a shard cannot be read.
    """
    scans = _located(dataset, _scans(dataset, log, threads))
    reels = [_reel(dataset, episode, scans) for episode in dataset.episodes]
    chosen = set(wanted)
    in_use = {camera.key for camera in cameras}
    seen: dict[str, Digests] = {}
    for one in color_cameras(dataset):
        # Where no signal moves, all cameras together identify the episode, also one that is not wanted: what is
        # recorded of its shard names it. Else only the cameras in use matter.
        needed = [
            reel
            for reel in reels
            if reel.scanned.motion is None or (reel.episode.index in chosen and one.key in in_use)
        ]
        seen[one.key] = digest_footage(dataset, log, one, needed, threads=threads) if needed else {}
    return [_surveyed(dataset, reel, seen) for reel in reels]


def _reel(dataset: Dataset, episode: EpisodeMetadata, scans: Mapping[int, EpisodeScan]) -> Reel:
    scanned = scans.get(episode.index)
    where = f"{dataset.root / episode.shard} episode {episode.index}"
    hint = "meta/episodes and data/ come from different versions of the dataset"
    if scanned is None:
        raise DatasetError("an episode has no frames", where=where, hint=hint)
    if scanned.stop - scanned.start != episode.length:
        got = f"{scanned.stop - scanned.start} frames, meta/episodes says {episode.length}"
        raise DatasetError("an episode's length disagrees", where=where, got=got, hint=hint)
    return Reel(episode, scanned)


def _surveyed(dataset: Dataset, reel: Reel, seen: Mapping[str, Digests]) -> EpisodeRecord:
    index, scanned = reel.episode.index, reel.scanned
    found = {key: digests[index] for key, digests in sorted(seen.items()) if index in digests}
    troubles = {key: d for key, d in found.items() if isinstance(d, FootageError)}
    footage = {key: d for key, d in found.items() if not isinstance(d, FootageError)}
    return EpisodeRecord(
        episode=reel.episode,
        scanned=scanned,
        digest=scanned.motion or footage_identity(scanned.clock, tuple(footage.values())),
        task=_task(dataset, reel),
        footage=footage,
        troubles=troubles,
        nameless=None if scanned.motion else next(iter(troubles.values()), None),
    )


def _task(dataset: Dataset, reel: Reel) -> str:
    texts = [dataset.tasks[i] for i in reel.scanned.task_indices if i in dataset.tasks]
    return ", then ".join(texts or reel.episode.tasks)


_SCANS = "scan.v1"


def _located(dataset: Dataset, scans: Mapping[str, Sequence[EpisodeScan]]) -> dict[int, EpisodeScan]:
    """Find each episode where `meta/episodes` says it lies, and no frames anywhere else."""
    home = {episode.index: episode.shard for episode in dataset.episodes}
    located: dict[int, EpisodeScan] = {}
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


def _scan_stamp(dataset: Dataset, path: Path) -> str:
    """A scan depends on its shard, and on the names that info.json gives to what is in it."""
    names = digest_parts("names.v1", ["\0".join(dataset.names_of(f)).encode() for f in (STATE, ACTION)])
    return f"{file_stamp(path)}:{names}"


def _scans(dataset: Dataset, log: Log, threads: int) -> dict[str, list[EpisodeScan]]:
    paths = {shard: (dataset.root / shard).absolute() for shard in dataset.shards}
    stamps = {shard: _scan_stamp(dataset, path) for shard, path in paths.items()}
    held = log.memo_get(_SCANS, [str(p) for p in paths.values()])
    found: dict[str, list[EpisodeScan]] = {}
    for shard, path in paths.items():
        stamp, value = held.get(str(path), ("", ""))
        if stamp and stamp == stamps[shard]:
            found[shard] = msgspec.json.decode(value, type=list[EpisodeScan])
    missing = [shard for shard in dataset.shards if shard not in found]
    with ThreadPoolExecutor(threads) as pool:
        scanned = dict(zip(missing, pool.map(lambda shard: scan_shard(dataset, shard), missing), strict=True))
    log.memo_put(_SCANS, {str(paths[s]): (stamps[s], msgspec.json.encode(scanned[s]).decode()) for s in missing})
    return found | scanned


def remember_written(
    dataset: Dataset, log: Log, written: Mapping[str, Path], surveyed: Sequence[EpisodeRecord]
) -> None:
    """Remember what is known of shards that were just rewritten in place: all that was read of them is as it was."""
    shards = [shard for shard, path in written.items() if path == dataset.root / shard]
    scans: defaultdict[str, list[EpisodeScan]] = defaultdict(list)
    for one in surveyed:
        scans[one.episode.shard].append(one.scanned)
    paths = {shard: (dataset.root / shard).absolute() for shard in shards}
    log.memo_put(
        _SCANS, {str(p): (_scan_stamp(dataset, p), msgspec.json.encode(scans[s]).decode()) for s, p in paths.items()}
    )
    for camera in color_cameras(dataset):
        found = [(one.reel, one.footage[camera.key]) for one in surveyed if camera.key in one.footage]
        if camera.stored == "image" and found:
            remember_images(dataset, log, camera, shards, found)
