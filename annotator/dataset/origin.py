"""Where a working copy came from: the repository, the commit, and what each file was there.

It lies in `.cache/annotator/source.json` of the copy, beside what huggingface_hub keeps of a download; neither is part
of the dataset.
"""

import hashlib
from pathlib import Path

import msgspec

from annotator_store.atomic_files import drop, fsync_file, replace_durably, temporary_beside, write_hint
from annotator_store.errors import StoreError

FILE = Path(".cache") / "annotator" / "source.json"


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """`commit` is None while files are on their way. `files`: path → digest of its content there, see `digest_as`."""

    repo_id: str
    commit: str | None
    files: dict[str, str]


def read_source(root: Path) -> Source | None:
    """Read where a working copy came from; None where it did not come from the Hub.

    Raises:
        StoreError: the record cannot be read.
    """
    path = root / FILE
    try:
        return msgspec.json.decode(path.read_bytes(), type=Source)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as cause:
        hint = "delete it: the folder is then a dataset like any other, and --repo_id wants another folder"
        raise StoreError(
            "the record of a download cannot be read", where=str(path), got=str(cause), hint=hint
        ) from cause


def write_source(root: Path, source: Source) -> None:
    """Write where a working copy came from.

    Raises:
        StoreError: it cannot be written.
    """
    path = root / FILE
    temporary = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(msgspec.json.encode(source, order="deterministic"))
        fsync_file(temporary)
        replace_durably(temporary, path)
    except OSError as cause:
        hint = write_hint(cause)
        raise StoreError(
            "the record of a download cannot be written", where=str(path), got=str(cause), hint=hint
        ) from cause
    finally:
        drop(temporary)


def digest_as(known: str, path: Path) -> str:
    """Digest a file as the Hub digests one: SHA-256 of a large file (64 digits), git's blob id of another (40).

    Source: git hashes `blob <size>` and a zero byte before the content; git LFS names objects by SHA-256.
    """
    if len(known) == 40:
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
