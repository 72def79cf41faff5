"""A log that several machines share through a bucket: its sealed segments are downloaded before a run, and uploaded
during the run and at its end.

Segments are immutable and named by their content, so a bucket only ever gains files, and machines that write to it at
once cannot harm each other. A database is never put on a bucket: of two writers the last would win.
"""

import re
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec

from annotator.errors import UsageError
from annotator.hub.client import HubError, hub_api
from annotator_store.errors import Problem
from annotator_store.log.log import JOURNAL, Log
from annotator_store.log.segments import list_segments, read_segment, sync_path

if TYPE_CHECKING:
    from huggingface_hub import BucketFile

_URL = re.compile(r"(?:hf://buckets/)?([\w.-]+/[\w.-]+?)(?:/([\w./-]*?))?/?")
_SEGMENT = re.compile(r"[0-9a-f]{32}\.parquet")


class Bucket(msgspec.Struct, frozen=True):
    """A folder of a bucket. `bucket_id` is owner/name, `prefix` is "" or a path that ends in a slash."""

    bucket_id: str
    prefix: str

    @property
    def url(self) -> str:
        """The address, as `--bucket` takes it."""
        return f"hf://buckets/{self.bucket_id}/{self.prefix}".rstrip("/")

    def path(self, *parts: str) -> str:
        """Return the path of a file, from the top of the bucket."""
        return self.prefix + "/".join(parts)


def parse_bucket(url: str) -> Bucket:
    """Parse `hf://buckets/owner/name[/folder]`.

    Raises:
        UsageError: it is no such address.
    """
    match = _URL.fullmatch(url)
    if match is None or ".." in url:
        raise UsageError(
            "not the address of a bucket", where="--bucket", got=url, hint="write hf://buckets/OWNER/NAME[/FOLDER]"
        )
    bucket_id, prefix = match.groups()
    return Bucket(bucket_id, f"{prefix}/" if prefix else "")


def create_bucket(bucket: Bucket) -> None:
    """Create a private bucket unless there is one.

    Raises:
        HubError: the Hub refused.
    """
    with hub_api("the bucket cannot be created", bucket.url) as api:
        api.create_bucket(bucket.bucket_id, private=True, exist_ok=True)


class BucketSync:
    """Copies the segments of one store from and to a bucket. `every_s`: seconds between uploads during a run."""

    def __init__(self, bucket: Bucket, store: Path, note: Callable[[str], None], *, every_s: float) -> None:
        self._bucket = bucket
        self._store = store
        self._journal = store / JOURNAL
        self._note = note
        self._every_s = every_s
        self._remote: set[str] = set()

    def download(self) -> int:
        """Download the segments that are missing locally, before a run; return how many. Each is checked first.

        Raises:
            HubError: the bucket cannot be read. One that does not exist is created.
            JournalDamaged: a segment is not what its name says.
        """
        files = self._list_remote()
        self._remote = set(files)
        missing = sorted(self._remote - set(list_segments(self._journal)))
        if not missing:
            return 0
        self._journal.mkdir(parents=True, exist_ok=True)
        # A folder of its own: the store is not locked yet, and another run may be downloading into it, too.
        with TemporaryDirectory(prefix="incoming-", dir=self._store) as folder:
            incoming = Path(folder)
            with hub_api("the log's segments cannot be downloaded", self._bucket.url) as api:
                api.download_bucket_files(self._bucket.bucket_id, [(files[name], incoming / name) for name in missing])
            for name in missing:
                add_segment(incoming / name, self._journal)
        self._note(f"downloaded {len(missing)} segments of the log from {self._bucket.url}")
        return len(missing)

    def upload(self) -> int:
        """Upload the sealed segments that the bucket does not have yet; return how many.

        Raises:
            HubError: the bucket cannot be written.
        """
        new = sorted(set(list_segments(self._journal)) - self._remote)
        if new:
            added: list[tuple[str | Path | bytes, str]] = [
                (self._journal / name, self._bucket.path("journal", name)) for name in new
            ]
            with hub_api("the log's segments cannot be uploaded", self._bucket.url) as api:
                api.batch_bucket_files(self._bucket.bucket_id, add=added)
            self._remote.update(new)
        return len(new)

    @contextmanager
    def uploading(self, log: Log) -> Generator[None]:
        """Seal the log and upload its new segments every `every_s`, in a thread, until the block ends."""
        ended = threading.Event()
        thread = threading.Thread(target=self._keep_uploading, args=(log, ended), name="bucket-upload", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _keep_uploading(self, log: Log, ended: threading.Event) -> None:
        while not ended.wait(self._every_s):
            try:
                log.seal().result()
                self.upload()
            except (Problem, OSError) as error:  # of the Hub, of the log, of a file: the next time may be better
                self._note(f"the log is not uploaded yet, trying again: {error}")

    def _list_remote(self) -> "dict[str, BucketFile]":
        folder = self._bucket.path("journal")
        try:
            with hub_api("the bucket cannot be read", self._bucket.url) as api:
                from huggingface_hub import BucketFile

                entries = api.list_bucket_tree(self._bucket.bucket_id, prefix=folder, recursive=True)
                files = {e.path.removeprefix(f"{folder}/"): e for e in entries if isinstance(e, BucketFile)}
        except HubError as error:
            if error.status != 404:
                raise
            create_bucket(self._bucket)
            return {}
        # Whatever else somebody put there is not ours to read.
        return {name: file for name, file in files.items() if _SEGMENT.fullmatch(name)}


def add_segment(path: Path, journal: Path) -> None:
    """Move a segment into a journal, once its content matches its name and is flushed to disk.

    Raises:
        JournalDamaged: the content does not match.
    """
    for _ in read_segment(path):  # reading to the end is the check
        pass
    sync_path(path)
    path.rename(journal / path.name)
    sync_path(journal)
