"""Dataset repositories: pull one into a folder of plain files, push what was annotated.

A working copy is rewritten in place, so it is never made of links into huggingface_hub's cache.
"""

import glob
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from annotator.dataset.linked_copy import OWN
from annotator.dataset.origin import Source, digest_as, read_source, write_source
from annotator.errors import UsageError
from annotator.hub.client import HubError, at_the_hub
from annotator.hub.push_guard import refuse_losses
from annotator_store.atomic_files import LEFTOVER_SUFFIX
from annotator_store.errors import StoreError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

COMMIT_FILES = 256
_SEGMENT = re.compile(r"\.annotator/journal/[0-9a-f]{32}\.parquet")
_SHARD = re.compile(r"data/.*\.parquet")
_REWRITTEN = re.compile(r"data/.*|meta/info\.json|meta/annotations\.lock\.json|README\.md|\.annotator/.*")
"""What a run writes itself: a newer revision may replace it, and the next run brings it up to date again."""
_TOUCHED = re.compile(r"(data|meta|\.annotator)/.*|README\.md")
"""Where a run may have changed a file. All else is as it was downloaded, and is compared by its size alone."""

Note = Callable[[str], None]


class Remote(msgspec.Struct, frozen=True):
    """A file of a repository. `content` is its SHA-256 where it is a large file, else its git blob id."""

    content: str
    size: int


def default_folder(repo_id: str) -> Path:
    """Where a dataset's working copy lies when no folder is named: `annotator/` in huggingface_hub's home."""
    with at_the_hub("the Hub's home cannot be found", repo_id):
        from huggingface_hub import constants

        return Path(constants.HF_HOME) / "annotator" / repo_id


def pull(repo_id: str, revision: str | None, folder: Path, note: Note) -> str:
    """Bring the working copy in `folder` to a revision and return its commit; only files that differ there travel.

    Raises:
        UsageError: the folder holds something else.
        HubError: the dataset or the revision is not there, or the Hub cannot be reached.
        StoreError: a file was changed here and there.
    """
    where = f"{repo_id} at {revision or 'main'}"
    held = _held(folder, repo_id)
    with at_the_hub("the dataset cannot be read from the Hub", where) as api:
        commit = str(api.dataset_info(repo_id, revision=revision).sha)
        if held.commit == commit and all((folder / path).exists() for path in held.files):
            return commit
        there = {path: one.content for path, one in _listing(api, repo_id, commit).items() if _belongs(path)}
    wanted = [p for p, content in there.items() if held.files.get(p) != content or not (folder / p).exists()]
    _refuse_conflicts(folder, held, there, wanted)
    note(f"downloading {repo_id} at {commit[:12]}: {len(wanted)} of {len(there)} files into {folder}")
    _make_room(folder, held, there, wanted)
    if wanted:
        _download(repo_id, commit, folder, wanted, len(wanted) == len(there))
    write_source(folder, Source(repo_id=repo_id, commit=commit, files=there))
    return commit


def commit_of(repo_id: str, revision: str | None) -> str:
    """Find the commit that a revision names.

    Raises:
        HubError: the dataset or the revision is not there, or the Hub cannot be reached.
    """
    with at_the_hub("the dataset cannot be read from the Hub", f"{repo_id} at {revision or 'main'}") as api:
        return str(api.dataset_info(repo_id, revision=revision).sha)


def changed_here(folder: Path) -> list[str]:
    """Name the files of a working copy's meta/ that a person changed or added: whoever downloads it has others."""
    source = read_source(folder)
    names = [path.relative_to(folder).as_posix() for path in sorted((folder / "meta").rglob("*")) if path.is_file()]
    known = source.files if source else {}
    return [
        name
        for name in names
        if not _REWRITTEN.fullmatch(name) and not name.endswith(LEFTOVER_SUFFIX)
        and (name not in known or digest_as(known[name], folder / name) != known[name])
    ]  # fmt: skip


def _held(folder: Path, repo_id: str) -> Source:
    held = read_source(folder)
    if held is None and folder.is_dir() and any(folder.iterdir()):
        hint = "name an empty folder with --root, or annotate what lies there without --repo_id"
        raise UsageError("the folder holds something else", where="--root", got=str(folder), hint=hint)
    if held is not None and held.repo_id != repo_id:
        hint = "name another folder with --root"
        raise UsageError("the folder holds another dataset", where=str(folder), got=held.repo_id, hint=hint)
    return held or Source(repo_id=repo_id, commit=None, files={})


def _listing(api: "HfApi", repo_id: str, revision: str | None) -> dict[str, Remote]:
    from huggingface_hub import RepoFile

    tree = api.list_repo_tree(repo_id, repo_type="dataset", revision=revision, recursive=True)
    files = [one for one in tree if isinstance(one, RepoFile)]
    return {one.path: Remote(one.lfs.sha256 if one.lfs else one.blob_id, one.size) for one in files}


def _belongs(path: str) -> bool:
    top = path.partition("/")[0]
    return bool(_SEGMENT.fullmatch(path)) or top not in OWN


def _refuse_conflicts(folder: Path, held: Source, there: Mapping[str, str], wanted: Sequence[str]) -> None:
    """A person may have edited the vocabulary or other files; what a run wrote itself it writes again."""
    for path in wanted:
        here = folder / path
        if _REWRITTEN.fullmatch(path) or not here.is_file() or (not held.files and held.commit is None):
            continue
        if digest_as(there[path], here) not in (there[path], held.files.get(path)):
            hint = "move it away and run again to take the Hub's, then edit that"
            raise StoreError("a file was changed here and on the Hub", where=str(here), got=path, hint=hint)


def _make_room(folder: Path, held: Source, there: Mapping[str, str], wanted: Iterable[str]) -> None:
    """Remove what is to be replaced: where the Hub fails half way, the client would take an old file for a new one."""
    write_source(folder, Source(repo_id=held.repo_id, commit=None, files=held.files))
    gone = [path for path in held.files if path not in there and not path.startswith(".annotator/")]
    for path in [*gone, *(path for path in wanted if path in held.files)]:
        (folder / path).unlink(missing_ok=True)


def _download(repo_id: str, commit: str, folder: Path, wanted: Sequence[str], everything: bool) -> None:
    patterns = None if everything else [glob.escape(path) for path in wanted]
    with at_the_hub("the dataset cannot be downloaded", f"{repo_id} at {commit[:12]}") as api:
        api.snapshot_download(
            repo_id, repo_type="dataset", revision=commit, local_dir=folder, allow_patterns=patterns,
            ignore_patterns=[".cache/*", ".annotator/*.duckdb*", ".annotator/lock", ".annotator/*.jsonl"],
        )  # fmt: skip
    missing = [path for path in wanted if not (folder / path).is_file()]
    if missing:
        hint = "the connection broke: run the same command again, it goes on where it was"
        raise HubError("a file did not arrive", where=f"{repo_id} at {commit[:12]}", got=missing[0], hint=hint)


def push(folder: Path, repo_id: str, *, origin: Source | None, private: bool | None, store: Path, note: Note) -> str:
    """Push a dataset, its card, lock and log, and tag it with its codebase version; return the commit.

    To the repository it came from, only what differs travels, and only onto the commit it came from. What broke off
    before is taken up where it was. `private`: see `make_repo`. `store` is where its log lies: of that, segments alone.

    Raises:
        HubError: the Hub refused, or the repository holds another dataset, a newer revision, or rows that are not here.
    """
    home = origin is not None and origin.repo_id == repo_id and origin.commit is not None
    files = dict(_files(folder, store))
    if not home:
        make_repo(repo_id, like=origin.repo_id if origin else None, private=private)
    with at_the_hub("the dataset cannot be pushed", repo_id) as api:
        info = api.dataset_info(repo_id)
        head = str(info.sha)
        there = _listing(api, repo_id, head)
        _refuse_others(repo_id, files, there)
        changed = [name for name, path in files.items() if _differs(name, path, there.get(name), home)]
        size = sum(files[name].stat().st_size for name in changed)
        if not home:
            shards = {one: files[one] for one in changed if one in there and _SHARD.fullmatch(one)}
            refuse_losses(api, repo_id, head, shards)
        seen = "private" if info.private else "public"
        note(f"pushing {len(changed)} of {len(files)} files, {size / 1e6:.1f} MB, to {repo_id}, which is {seen}")
        parent = _parent(origin, head, files, there) if origin is not None and home else head
        commit = _commit(api, repo_id, {name: files[name] for name in changed}, parent) if changed else head
        # Before the tag: should that fail, this copy knows which commit it is all the same.
        if home and read_source(folder) is not None:
            listing = _listing(api, repo_id, commit)
            kept = {name: one.content for name, one in listing.items() if _belongs(name)}
            write_source(folder, Source(repo_id=repo_id, commit=commit, files=kept))
        _tag(api, repo_id, _version(folder), commit)
    return commit


def make_repo(repo_id: str, *, like: str | None, private: bool | None) -> None:
    """Make a dataset's repository where there is none yet. `private` None: as the dataset `like` is.

    Raises:
        HubError: the Hub refused.
    """
    with at_the_hub("the dataset's repository cannot be made", repo_id) as api:
        from huggingface_hub.errors import RepositoryNotFoundError

        if private is None and like is not None:
            try:
                private = api.dataset_info(like).private
            except RepositoryNotFoundError:
                private = True  # it is gone, or hidden by now: rather too careful than public without a word
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)


def check_writable(repo_id: str) -> None:
    """Find out whether the token may write a repository that is there.

    Raises:
        HubError: it may not.
    """
    with at_the_hub("the dataset could not be pushed", repo_id) as api:
        api.auth_check(repo_id, repo_type="dataset", write=True)


def _parent(origin: Source, head: str, files: Mapping[str, Path], there: Mapping[str, Remote]) -> str:
    """Choose the commit to push onto: the one this copy was made from, unless all that came since is in it already.

    So it is after a push that broke off between two commits, or whose answer was lost.
    """
    news = {name: one for name, one in there.items() if _belongs(name) and origin.files.get(name) != one.content}
    own = all(name in files and digest_as(one.content, files[name]) == one.content for name, one in news.items())
    return head if own and there.keys() >= origin.files.keys() else str(origin.commit)


def _files(folder: Path, store: Path) -> Iterator[tuple[str, Path]]:
    """List what is pushed, by its name there: the dataset, and of its log the sealed segments alone."""
    log = store.resolve()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.resolve().is_relative_to(log):
            name = f".annotator/{path.resolve().relative_to(log).as_posix()}"
        if path.is_file() and _belongs(name) and not name.endswith(LEFTOVER_SUFFIX):
            yield name, path


def _refuse_others(repo_id: str, files: Mapping[str, Path], there: Mapping[str, Remote]) -> None:
    """Readers take every parquet file under data/ and meta/episodes/ for part of the dataset."""
    for name in there:
        if name.startswith(("data/", "meta/episodes/")) and name.endswith(".parquet") and name not in files:
            hint = "push to another name with --new_repo_id, or remove that file there"
            raise HubError("the repository holds another dataset", where=repo_id, got=name, hint=hint)


def _differs(name: str, path: Path, remote: Remote | None, home: bool) -> bool:
    if remote is None or path.stat().st_size != remote.size:
        return True
    return (not home or bool(_TOUCHED.fullmatch(name))) and digest_as(remote.content, path) != remote.content


def _commit(api: "HfApi", repo_id: str, files: Mapping[str, Path], parent: str) -> str:
    """Commit files onto `parent`; what makes the dataset a readable one goes last, and together."""
    from huggingface_hub import CommitOperationAdd

    last = [name for name in files if _TOUCHED.fullmatch(name)]
    first = [name for name in files if not _TOUCHED.fullmatch(name)]
    parts = [first[start : start + COMMIT_FILES] for start in range(0, len(first), COMMIT_FILES)]
    for part in [*parts, last]:
        if part:
            added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(files[name])) for name in part]
            done = api.create_commit(
                repo_id, added, commit_message="Language annotations by annotator", repo_type="dataset",
                parent_commit=parent,
            )  # fmt: skip
            parent = done.oid
    return parent


def _version(folder: Path) -> str:
    return str(json.loads((folder / "meta" / "info.json").read_text(encoding="utf-8"))["codebase_version"])


def _tag(api: "HfApi", repo_id: str, version: str, commit: str) -> None:
    """Let the tag of the codebase version name the commit: LeRobot reads a dataset by that tag."""
    tags = {one.name: one.target_commit for one in api.list_repo_refs(repo_id, repo_type="dataset").tags}
    if tags.get(version) == commit:
        return
    if version in tags:
        api.delete_tag(repo_id, tag=version, repo_type="dataset")
    api.create_tag(repo_id, tag=version, revision=commit, repo_type="dataset")
