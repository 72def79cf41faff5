"""Dataset repositories: pull one into a folder of plain files, push what was annotated.

A working copy is rewritten in place, so it is never made of links into huggingface_hub's cache.
"""

import glob
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from annotator.config.store_path import STORE
from annotator.dataset.linked_copy import OWN
from annotator.dataset.origin import Source, digest_as, read_source, write_source
from annotator.errors import UsageError
from annotator.hub.client import HubError, hub_api
from annotator.hub.push_guard import refuse_losses
from annotator_store.atomic_files import LEFTOVER_SUFFIX
from annotator_store.errors import StoreError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

COMMIT_FILES = 256
"""Files of one commit at most: a commit of thousands may time out."""
_SEGMENT = re.compile(r"\.annotator/journal/[0-9a-f]{32}\.parquet")
_SHARD = re.compile(r"data/.*\.parquet")
_REWRITTEN = re.compile(r"data/.*|meta/info\.json|meta/annotations\.lock\.json|README\.md|\.annotator/.*")
"""Files that a run writes itself: a newer revision may replace them, and the next run brings them up to date again."""
_MUTABLE = re.compile(r"(data|meta|\.annotator)/.*|README\.md")
"""Files that a run may change. All others are as they were downloaded, and are compared by their size alone."""

Note = Callable[[str], None]


class RemoteFile(msgspec.Struct, frozen=True):
    """A file of a repository. `content` is its SHA-256 where it is stored as a large file, else its git blob id."""

    content: str
    size: int

    def matches(self, path: Path, *, by_size: bool) -> bool:
        """Whether a local file is the same; `by_size` alone spares reading it."""
        return path.stat().st_size == self.size and (by_size or digest_as(self.content, path) == self.content)


class DatasetRepo:
    """The requests to one dataset repository. `api` is a client from `hub_api`, which translates their errors."""

    def __init__(self, api: "HfApi", repo_id: str) -> None:
        self._api = api
        self._repo_id = repo_id

    def list_files(self, revision: str) -> dict[str, RemoteFile]:
        """List every file of a revision, by path."""
        from huggingface_hub import RepoFile

        entries = self._api.list_repo_tree(self._repo_id, repo_type="dataset", revision=revision, recursive=True)
        files = [entry for entry in entries if isinstance(entry, RepoFile)]
        return {file.path: RemoteFile(file.lfs.sha256 if file.lfs else file.blob_id, file.size) for file in files}

    def list_contents(self, revision: str) -> dict[str, str]:
        """List path → content of the files of a revision that a working copy holds."""
        return {path: file.content for path, file in self.list_files(revision).items() if _is_synced(path)}

    def commit(self, files: Mapping[str, Path], parent: str) -> str:
        """Commit files (path in the repository → local file) onto `parent`; return the last commit.

        A reader needs the files of `_MUTABLE` to match each other, so these go together, in the last commit.
        """
        from huggingface_hub import CommitOperationAdd

        last = [name for name in files if _MUTABLE.fullmatch(name)]
        first = [name for name in files if not _MUTABLE.fullmatch(name)]
        for names in [*(first[start : start + COMMIT_FILES] for start in range(0, len(first), COMMIT_FILES)), last]:
            if names:
                added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=str(files[name])) for name in names]
                commit = self._api.create_commit(
                    self._repo_id, added, commit_message="Language annotations by annotator", repo_type="dataset",
                    parent_commit=parent,
                )  # fmt: skip
                parent = commit.oid
        return parent

    def download(self, commit: str, folder: Path, paths: Sequence[str] | None) -> None:
        """Download files of a commit into a folder; all of them where `paths` is None."""
        patterns = None if paths is None else [glob.escape(path) for path in paths]
        self._api.snapshot_download(
            self._repo_id, repo_type="dataset", revision=commit, local_dir=folder, allow_patterns=patterns,
            ignore_patterns=[".cache/*", ".annotator/*.duckdb*", ".annotator/lock", ".annotator/*.jsonl"],
        )  # fmt: skip

    def move_tag(self, tag: str, commit: str) -> None:
        """Point a tag to a commit, unless it does already."""
        refs = self._api.list_repo_refs(self._repo_id, repo_type="dataset")
        tags = {ref.name: ref.target_commit for ref in refs.tags}
        if tags.get(tag) == commit:
            return
        if tag in tags:
            self._api.delete_tag(self._repo_id, tag=tag, repo_type="dataset")
        self._api.create_tag(self._repo_id, tag=tag, revision=commit, repo_type="dataset")


def default_folder(repo_id: str) -> Path:
    """Return the folder of a dataset's working copy where none is named: `annotator/` in huggingface_hub's home."""
    with hub_api("the Hub's home cannot be found", repo_id):
        from huggingface_hub import constants

        return Path(constants.HF_HOME) / "annotator" / repo_id


def pull(repo_id: str, revision: str | None, folder: Path, note: Note) -> str:
    """Update the working copy in `folder` to a revision and return its commit; only files that differ are downloaded.

    Raises:
        UsageError: the folder holds something else.
        HubError: the dataset or the revision does not exist, or the Hub cannot be reached.
        StoreError: a file was changed both here and on the Hub.
    """
    copy = _read_copy(folder, repo_id)
    with hub_api("the dataset cannot be read from the Hub", f"{repo_id} at {revision or 'main'}") as api:
        commit = str(api.dataset_info(repo_id, revision=revision).sha)
        if copy.commit == commit and all((folder / path).exists() for path in copy.files):
            return commit
        remote = DatasetRepo(api, repo_id).list_contents(commit)
    stale = [p for p, content in remote.items() if copy.files.get(p) != content or not (folder / p).exists()]
    _refuse_conflicts(folder, copy, remote, stale)
    note(f"downloading {repo_id} at {commit[:12]}: {len(stale)} of {len(remote)} files into {folder}")
    # From here to the end the copy is of no commit. What is replaced is removed first: after a download that broke off,
    # the client would take an old file for a new one.
    write_source(folder, Source(repo_id=copy.repo_id, commit=None, files=copy.files))
    gone = [path for path in copy.files if path not in remote and not path.startswith(f"{STORE}/")]
    for path in [*gone, *(path for path in stale if path in copy.files)]:
        (folder / path).unlink(missing_ok=True)
    if stale:
        with hub_api("the dataset cannot be downloaded", f"{repo_id} at {commit[:12]}") as api:
            # Thousands of patterns are slow to match: none are given where every file is new.
            DatasetRepo(api, repo_id).download(commit, folder, None if len(stale) == len(remote) else stale)
    # The client returns normally when a connection breaks between two files.
    missing = [path for path in stale if not (folder / path).is_file()]
    if missing:
        hint = "the connection broke: run the same command again, it goes on where it was"
        raise HubError("a file did not arrive", where=f"{repo_id} at {commit[:12]}", got=missing[0], hint=hint)
    write_source(folder, Source(repo_id=repo_id, commit=commit, files=remote))
    return commit


def resolve_commit(repo_id: str, revision: str | None) -> str:
    """Return the commit that a revision names; `main` where it is None.

    Raises:
        HubError: the dataset or the revision does not exist, or the Hub cannot be reached.
    """
    with hub_api("the dataset cannot be read from the Hub", f"{repo_id} at {revision or 'main'}") as api:
        return str(api.dataset_info(repo_id, revision=revision).sha)


def edited_files(folder: Path) -> list[str]:
    """Return the files of a working copy's meta/ that a person changed or added, sorted; the Hub does not have them."""
    source = read_source(folder)
    names = [path.relative_to(folder).as_posix() for path in sorted((folder / "meta").rglob("*")) if path.is_file()]
    known = source.files if source else {}
    return [
        name
        for name in names
        if not _REWRITTEN.fullmatch(name) and not name.endswith(LEFTOVER_SUFFIX)
        and (name not in known or digest_as(known[name], folder / name) != known[name])
    ]  # fmt: skip


def _read_copy(folder: Path, repo_id: str) -> Source:
    """Read what a working copy was downloaded from; an empty `Source` for a new one.

    Raises:
        UsageError: the folder holds something else.
    """
    copy = read_source(folder)
    if copy is None and folder.is_dir() and any(folder.iterdir()):
        hint = "name an empty folder with --root, or annotate what lies there without --repo_id"
        raise UsageError("the folder holds something else", where="--root", got=str(folder), hint=hint)
    if copy is not None and copy.repo_id != repo_id:
        hint = "name another folder with --root"
        raise UsageError("the folder holds another dataset", where=str(folder), got=copy.repo_id, hint=hint)
    return copy or Source(repo_id=repo_id, commit=None, files={})


def _is_synced(path: str) -> bool:
    """Whether a file is pushed and pulled: everything but folders of tools; of the log, its sealed segments."""
    return bool(_SEGMENT.fullmatch(path)) or path.partition("/")[0] not in OWN


def _refuse_conflicts(folder: Path, copy: Source, remote: Mapping[str, str], stale: Sequence[str]) -> None:
    """A person may have edited the vocabulary or other files; what a run wrote itself, the next one writes again."""
    for path in stale:
        local = folder / path
        if _REWRITTEN.fullmatch(path) or not local.is_file() or (not copy.files and copy.commit is None):
            continue
        if digest_as(remote[path], local) not in (remote[path], copy.files.get(path)):
            hint = "move it away and run again to take the Hub's, then edit that"
            raise StoreError("a file was changed here and on the Hub", where=str(local), got=path, hint=hint)


def push(folder: Path, repo_id: str, *, origin: Source | None, private: bool | None, store: Path, note: Note) -> str:
    """Push a dataset, its card, lock and log, and tag it with its codebase version; return the commit.

    To the repository it came from, only files that differ are sent, and only onto the commit they came from. A push
    that broke off is continued. `private`: see `create_repo`. `store`: where its log is; of that, sealed segments only.

    Raises:
        HubError: the Hub refused, or the repository holds another dataset, a newer revision, or rows that are not here.
    """
    is_origin = origin is not None and origin.repo_id == repo_id and origin.commit is not None
    files = dict(_list_local(folder, store))
    if not is_origin:
        create_repo(repo_id, like=origin.repo_id if origin else None, private=private)
    with hub_api("the dataset cannot be pushed", repo_id) as api:
        repo, info = DatasetRepo(api, repo_id), api.dataset_info(repo_id)
        head = str(info.sha)
        remote = repo.list_files(head)
        # Readers take every parquet file under data/ and meta/episodes/ for part of the dataset.
        tables = [n for n in remote if n.startswith(("data/", "meta/episodes/")) and n.endswith(".parquet")]
        if others := [name for name in tables if name not in files]:
            hint = "push to another name with --new_repo_id, or remove that file there"
            raise HubError("the repository holds another dataset", where=repo_id, got=others[0], hint=hint)
        by_size = {name for name in files if is_origin and not _MUTABLE.fullmatch(name)}
        changed = {
            name: path
            for name, path in files.items()
            if name not in remote or not remote[name].matches(path, by_size=name in by_size)
        }
        if not is_origin:
            replaced = {name: path for name, path in changed.items() if name in remote and _SHARD.fullmatch(name)}
            refuse_losses(api, repo_id, head, replaced)
        size = sum(path.stat().st_size for path in changed.values())
        seen = "private" if info.private else "public"
        note(f"pushing {len(changed)} of {len(files)} files, {size / 1e6:.1f} MB, to {repo_id}, which is {seen}")
        parent = _choose_parent(origin, head, files, remote) if origin is not None and is_origin else head
        commit = repo.commit(changed, parent) if changed else head
        # Before the tag: should that fail, this copy knows which commit it is all the same.
        if is_origin and read_source(folder) is not None:
            write_source(folder, Source(repo_id=repo_id, commit=commit, files=repo.list_contents(commit)))
        # LeRobot reads a dataset by the tag of its codebase version.
        dataset_info = json.loads((folder / "meta" / "info.json").read_text(encoding="utf-8"))
        repo.move_tag(str(dataset_info["codebase_version"]), commit)
    return commit


def create_repo(repo_id: str, *, like: str | None, private: bool | None) -> None:
    """Create a dataset's repository unless there is one. `private` None: as the dataset `like` is.

    Raises:
        HubError: the Hub refused.
    """
    with hub_api("the dataset's repository cannot be created", repo_id) as api:
        from huggingface_hub.errors import RepositoryNotFoundError

        if private is None and like is not None:
            try:
                private = api.dataset_info(like).private
            except RepositoryNotFoundError:
                private = True  # it was removed or hidden since: rather too careful than public without a word
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)


def check_writable(repo_id: str) -> None:
    """Check that the token may write to a repository that exists.

    Raises:
        HubError: it may not.
    """
    with hub_api("the dataset could not be pushed", repo_id) as api:
        api.auth_check(repo_id, repo_type="dataset", write=True)


def _choose_parent(origin: Source, head: str, files: Mapping[str, Path], remote: Mapping[str, RemoteFile]) -> str:
    """Return the commit to push onto: the one this copy was made from, or `head` where all that came since is here.

    That is so after a push that broke off between two commits, or whose response was lost.
    """
    new = {n: file for n, file in remote.items() if _is_synced(n) and origin.files.get(n) != file.content}
    ours = all(name in files and digest_as(file.content, files[name]) == file.content for name, file in new.items())
    return head if ours and remote.keys() >= origin.files.keys() else str(origin.commit)


def _list_local(folder: Path, store: Path) -> Iterator[tuple[str, Path]]:
    """List the files to push by their path in the repository: the dataset, and of its log the sealed segments."""
    log = store.resolve()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.resolve().is_relative_to(log):  # also where --store names another folder inside the dataset
            name = f"{STORE}/{path.resolve().relative_to(log).as_posix()}"
        if path.is_file() and _is_synced(name) and not name.endswith(LEFTOVER_SUFFIX):
            yield name, path
