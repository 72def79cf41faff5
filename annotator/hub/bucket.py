"""A log shared through a bucket: its sealed segments, fetched before a run, delivered during it and at its end.

Segments are immutable and named by their content, so a bucket only ever gains files, and machines that write to it at
once cannot harm each other. A database never lies on a bucket: of two writers the last would win.
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
from annotator.hub.client import HubError, at_the_hub
from annotator_store.errors import Problem
from annotator_store.log.log import Log
from annotator_store.log.segments import list_segments, read_segment, sync_path

if TYPE_CHECKING:
    from huggingface_hub import BucketFile

_URL = re.compile(r"(?:hf://buckets/)?([\w.-]+/[\w.-]+?)(?:/([\w./-]*?))?/?")
_SEGMENT = re.compile(r"[0-9a-f]{32}\.parquet")


class Bucket(msgspec.Struct, frozen=True):
    """A place in a bucket: `bucket_id` is owner/name, `prefix` is "" or a folder that ends in a slash."""

    bucket_id: str
    prefix: str

    @property
    def url(self) -> str:
        """Its address, as `--bucket` takes it."""
        return f"hf://buckets/{self.bucket_id}/{self.prefix}".rstrip("/")

    def path(self, *parts: str) -> str:
        """Name a file in it."""
        return self.prefix + "/".join(parts)


def parse_bucket(url: str) -> Bucket:
    """Read `hf://buckets/owner/name[/folder]`.

    Raises:
        UsageError: it is no such address.
    """
    found = _URL.fullmatch(url)
    if found is None or ".." in url:
        raise UsageError(
            "no bucket's address", where="--bucket", got=url, hint="write hf://buckets/OWNER/NAME[/FOLDER]"
        )
    bucket_id, prefix = found.groups()
    return Bucket(bucket_id, f"{prefix}/" if prefix else "")


def make_bucket(bucket: Bucket) -> None:
    """Make a private bucket where there is none yet.

    Raises:
        HubError: the Hub refused.
    """
    with at_the_hub("the bucket cannot be made", bucket.url) as api:
        api.create_bucket(bucket.bucket_id, private=True, exist_ok=True)


class BucketSync:
    """Carries the segments of one store to and from a bucket. `every_s`: seconds between deliveries during a run."""

    def __init__(self, bucket: Bucket, store: Path, note: Callable[[str], None], *, every_s: float) -> None:
        self._bucket = bucket
        self._store = store
        self._journal = store / "journal"
        self._note = note
        self._every_s = every_s
        self._there: set[str] = set()

    def fetch(self) -> int:
        """Bring the segments that are not here yet, each checked before it counts; return how many. Before a run.

        Raises:
            HubError: the bucket cannot be read. One that does not exist is made.
            JournalDamaged: a segment is not what its name says.
        """
        listed = self._list()
        self._there = set(listed)
        wanted = sorted(self._there - set(list_segments(self._journal)))
        if not wanted:
            return 0
        self._journal.mkdir(parents=True, exist_ok=True)
        # A folder of its own: the store is not locked yet, and another run may be fetching into it, too.
        with TemporaryDirectory(prefix="incoming-", dir=self._store) as folder:
            incoming = Path(folder)
            with at_the_hub("the log's segments cannot be fetched", self._bucket.url) as api:
                api.download_bucket_files(self._bucket.bucket_id, [(listed[name], incoming / name) for name in wanted])
            for name in wanted:
                adopt_segment(incoming / name, self._journal)
        self._note(f"fetched {len(wanted)} segments of the log from {self._bucket.url}")
        return len(wanted)

    def deliver(self) -> int:
        """Upload the sealed segments that are not there yet; return how many.

        Raises:
            HubError: the bucket cannot be written.
        """
        new = sorted(set(list_segments(self._journal)) - self._there)
        if new:
            added: list[tuple[str | Path | bytes, str]] = [
                (self._journal / name, self._bucket.path("journal", name)) for name in new
            ]
            with at_the_hub("the log's segments cannot be delivered", self._bucket.url) as api:
                api.batch_bucket_files(self._bucket.bucket_id, add=added)
            self._there.update(new)
        return len(new)

    @contextmanager
    def delivering(self, log: Log) -> Generator[None]:
        """Seal and deliver what was recorded, again and again, while a run goes on. What fails is tried again."""
        ended = threading.Event()
        thread = threading.Thread(target=self._keep_delivering, args=(log, ended), name="bucket-deliver", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _keep_delivering(self, log: Log, ended: threading.Event) -> None:
        while not ended.wait(self._every_s):
            try:
                log.seal().result()
                self.deliver()
            except (Problem, OSError) as error:  # of the Hub, of the log, of a file: the next time may be better
                self._note(f"not delivered yet, will be tried again: {error}")

    def _list(self) -> "dict[str, BucketFile]":
        """List the segments in the bucket, by name."""
        try:
            with at_the_hub("the bucket cannot be read", self._bucket.url) as api:
                from huggingface_hub import BucketFile

                folder = self._bucket.path("journal")
                tree = api.list_bucket_tree(self._bucket.bucket_id, prefix=folder, recursive=True)
                files = [one for one in tree if isinstance(one, BucketFile)]
        except HubError as error:
            if error.status != 404:
                raise
            make_bucket(self._bucket)
            return {}
        found = {one.path.removeprefix(f"{folder}/"): one for one in files}
        return {name: one for name, one in found.items() if _SEGMENT.fullmatch(name)}


def adopt_segment(path: Path, journal: Path) -> None:
    """Move a segment into a journal, once it is found to be what its name says and lies safely on the disk.

    Raises:
        JournalDamaged: it is not what its name says.
    """
    for _ in read_segment(path):
        pass
    sync_path(path)
    path.rename(journal / path.name)
    sync_path(journal)
