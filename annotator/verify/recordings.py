"""Compare the recordings with what the log says of them: signals and footage, digest by digest.

Footage is demuxed and not decoded, each file once. Where PyAV is not installed, or a file is missing, that part is left
out with a note.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from annotator.dataset.cameras import color_cameras
from annotator.dataset.episode_record import EpisodeRecord
from annotator.dataset.episodes import join_record
from annotator.dataset.footage import digest_file, footage_file
from annotator.dataset.metadata import Dataset
from annotator.dataset.shard_scan import EpisodeScan, scan_shard
from annotator.errors import DatasetError, FootageError
from annotator_store.digests import Digest
from annotator_store.verify.findings import VerifyReport
from annotator_store.verify.store import Verified


def check_recordings(dataset: Dataset, verified: Verified, report: VerifyReport) -> None:
    """Report each episode whose signals its rows were not made from, or whose footage is not what was last seen.

    A run sees footage before it asks: where it was replaced and the run then failed, the rows are older than what it
    saw, and `sync --locked` says that they are out of date.
    """
    scans = dict(_scan_shards(dataset, verified, report))
    metadata = {episode.index: episode for episode in dataset.episodes}
    records = [
        join_record(dataset, metadata[scan.index], scan)
        for shard_scans in scans.values()
        for scan in shard_scans
        if scan.index in metadata
    ]
    footage = _digest_footage(dataset, verified, records, report)
    cameras = sorted(camera.key for camera in color_cameras(dataset))
    for path, shard_scans in scans.items():
        for scan, written in zip(shard_scans, verified.records[path].episodes, strict=True):
            where = f"{path}, episode {scan.index} (rows {scan.start}–{scan.stop})"
            digests, seen = footage.get(scan.index, {}), verified.footage(scan.index, written.episode)
            others = [camera for camera, digest in seen.items() if digests.get(camera, digest) != digest]
            for camera in others:
                report.add("footage", f"{where}, camera {camera}", seen[camera], digests[camera])
            identity = scan.motion_digest
            if identity is None and digests.keys() >= set(cameras):  # nothing moves: its footage identifies it
                identity = scan.identity({camera: digests[camera] for camera in cameras})
            # Footage that was replaced has been reported already, and makes such an identity another one.
            if identity not in (None, written.episode) and not (others and scan.motion_digest is None):
                report.add("recording", f"{where}, timestamps and signals", written.episode, identity)


def _scan_shards(dataset: Dataset, verified: Verified, report: VerifyReport) -> Iterator[tuple[str, list[EpisodeScan]]]:
    """Scan each shard whose episodes are where they were when it was written; any other was reported before."""
    for path, record in verified.records.items():
        if path not in verified.languages:
            continue
        try:
            scans = scan_shard(dataset, path)
        except DatasetError as error:
            report.add("recording", error.where, "frames that can be read", error.got or error.what)
            continue
        if [(e.start, e.stop) for e in record.episodes] == [(scan.start, scan.stop) for scan in scans]:
            yield path, scans


def _digest_footage(
    dataset: Dataset, verified: Verified, records: Sequence[EpisodeRecord], report: VerifyReport
) -> dict[int, dict[str, Digest]]:
    """Digest the footage that the log knows, and that of episodes which nothing else identifies.

    Returns episode index → camera key → digest. What cannot be read is reported, each error once.
    """
    by_file: defaultdict[tuple[str, Path], list[EpisodeRecord]] = defaultdict(list)
    cameras = {camera.key: camera for camera in color_cameras(dataset)}
    for record in records:
        by_footage_alone = record.motion_digest is None
        for key in cameras if by_footage_alone else verified.cameras_seen(record.index) & cameras.keys():
            by_file[key, footage_file(dataset, cameras[key], record)].append(record)
    absent = sorted({str(path) for _, path in by_file if not path.is_file()})
    if absent:
        report.note(f"footage that is not here was not compared: {len(absent)} files, the first {absent[0]}")
    digests: dict[int, dict[str, Digest]] = defaultdict(dict)
    for (key, path), in_file in by_file.items():
        if not path.is_file():
            continue
        try:
            digested = digest_file(dataset, cameras[key], in_file)
        except ImportError as cause:
            report.note(f"no footage was compared, since PyAV cannot be loaded: {cause}")
            return digests
        unread: dict[str, FootageError] = {}
        for index, digest in digested.items():
            if isinstance(digest, FootageError):
                unread.setdefault(digest.line, digest)
            else:
                digests[index][key] = digest
        for error in unread.values():
            where = f"{error.where}, camera {key}"
            report.add("footage", where, "footage that can be read", error.got or error.what)
    return digests
