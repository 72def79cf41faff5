"""Hold what was recorded against what the log says of it: motion and footage, digest by digest.

Footage is demuxed and not decoded, each file once. Where PyAV is not installed, or a file is not here, that part is
left out, and a note says so.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from annotator.dataset.cameras import color_cameras
from annotator.dataset.episode_record import EpisodeRecord
from annotator.dataset.episodes import join_record
from annotator.dataset.footage import digest_file, footage_file
from annotator.dataset.metadata import Camera, Dataset
from annotator.dataset.shard_scan import EpisodeScan, scan_shard
from annotator.errors import DatasetError, FootageError
from annotator_store.digests import Digest
from annotator_store.log.shard_history import ShardRecord
from annotator_store.verify.findings import Audit
from annotator_store.verify.store import Verified

Found = Mapping[int, Mapping[str, Digest]]


def check_recordings(dataset: Dataset, verified: Verified, audit: Audit) -> None:
    """Report each episode whose signals its rows were not made from, or whose footage is not what was last seen.

    A run sees footage before it asks: where it was replaced and the run then failed, the rows are older than what it
    saw, and `sync --locked` says that they are out of date.
    """
    scans = dict(_scans(dataset, verified, audit))
    homes = {one.index: one for one in dataset.episodes}
    records = [
        join_record(dataset, homes[scan.index], scan)
        for scanned in scans.values()
        for scan in scanned
        if scan.index in homes
    ]
    footage = _footage(dataset, verified, records, audit)
    for path, scanned in scans.items():
        for one, record in zip(scanned, verified.records[path].episodes, strict=True):
            where, found = f"{path}, episode {one.index} (rows {one.start}–{one.stop})", footage.get(one.index, {})
            seen = verified.footage(one.index, record.episode)
            others = [camera for camera, digest in seen.items() if found.get(camera, digest) != digest]
            for camera in others:
                audit.report("footage", f"{where}, camera {camera}", seen[camera], found[camera])
            digest = one.motion_digest or _by_footage(dataset, one, footage)
            if digest not in (None, record.episode) and not (others and one.motion_digest is None):
                audit.report("recording", f"{where}, timestamps and signals", record.episode, digest)


def _scans(dataset: Dataset, verified: Verified, audit: Audit) -> Iterator[tuple[str, list[EpisodeScan]]]:
    """Scan each shard whose episodes lie where they lay when it was written; else that was said before."""
    for path, record in verified.records.items():
        if path not in verified.languages:
            continue
        try:
            scanned = scan_shard(dataset, path)
        except DatasetError as error:
            audit.report("recording", error.where, "frames that can be read", error.got or error.what)
            continue
        if _lies(record, scanned):
            yield path, scanned


def _lies(record: ShardRecord, scanned: Sequence[EpisodeScan]) -> bool:
    return [(one.start, one.stop) for one in record.episodes] == [(one.start, one.stop) for one in scanned]


def _by_footage(dataset: Dataset, one: EpisodeScan, footage: Found) -> Digest | None:
    """The identity of an episode in which nothing moves; None where not all of its footage is at hand."""
    found, keys = footage.get(one.index, {}), sorted(camera.key for camera in color_cameras(dataset))
    return one.identity({key: found[key] for key in keys}) if found.keys() >= set(keys) else None


def _footage(
    dataset: Dataset, verified: Verified, records: Sequence[EpisodeRecord], audit: Audit
) -> dict[int, dict[str, Digest]]:
    """Digest the footage that the log knows, and that of episodes which nothing else identifies."""
    by_file: defaultdict[tuple[str, Path], list[EpisodeRecord]] = defaultdict(list)
    cameras = {camera.key: camera for camera in color_cameras(dataset)}
    for record in records:
        by_footage_alone = record.motion_digest is None
        for key in cameras if by_footage_alone else verified.cameras_seen(record.index) & cameras.keys():
            by_file[key, footage_file(dataset, cameras[key], record)].append(record)
    found: dict[int, dict[str, Digest]] = defaultdict(dict)
    absent = sorted({str(path) for _, path in by_file if not path.is_file()})
    if absent:
        audit.note(f"footage that is not here was not compared: {len(absent)} files, the first {absent[0]}")
    for (key, path), here in by_file.items():
        if path.is_file():
            try:
                digests = _digests(dataset, cameras[key], here, audit)
            except ImportError as cause:
                audit.note(f"no footage was compared, since PyAV cannot be loaded: {cause}")
                return found
            for index, digest in digests.items():
                found[index][key] = digest
    return found


def _digests(dataset: Dataset, camera: Camera, records: Sequence[EpisodeRecord], audit: Audit) -> dict[int, Digest]:
    """Digest one file, and report what of it cannot be read."""
    digests: dict[int, Digest] = {}
    unread: dict[str, FootageError] = {}
    for index, digest in digest_file(dataset, camera, records).items():
        if isinstance(digest, FootageError):
            unread.setdefault(digest.line, digest)
        else:
            digests[index] = digest
    for error in unread.values():
        audit.report(
            "footage", f"{error.where}, camera {camera.key}", "footage that can be read", error.got or error.what
        )
    return digests
