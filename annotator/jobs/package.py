"""What a job is told to do: install the code, then run `annotator sync` with the settings that were given here."""

import gzip
import hashlib
import io
import shlex
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

import annotator
from annotator.config.settings import Settings, SyncSettings
from annotator.errors import UsageError
from annotator.hub.bucket import Bucket

MOUNT = "/annotator-bucket"
"""Where a job finds its bucket: for the code and the prompts that were uploaded, never for the log."""
PACKAGE = "episode-annotator"
_SOURCE = Path(annotator.__file__).parents[1]
_SHIPPED = ("annotator", "store", "prompts")
_LOCAL = ("root", "output", "store", "prompts", "validation.rules")
"""Settings that name places on this machine. A job has its own, or gets what lies there through the bucket."""


class JobUpload(msgspec.Struct, frozen=True, kw_only=True):
    """Files for a job: path in the bucket → content. `path` is where they lie once the bucket is mounted."""

    files: dict[str, bytes]
    path: str


def source_tree() -> Path | None:
    """Find the source tree this code runs from; None where it was installed."""
    return _SOURCE if (_SOURCE / "pyproject.toml").is_file() else None


def code_of(named: str | None) -> str:
    """Decide what a job installs, and check it.

    Raises:
        UsageError: it is none of those, or there is no source tree here.
    """
    code = named or ("tree" if source_tree() else "release")
    if code == "tree" and source_tree() is None:
        hint = "--code release, or run this from a source tree"
        raise UsageError("there is no source tree to upload", where="--code tree", got=str(_SOURCE), hint=hint)
    if code not in ("release", "tree", "image") and not code.startswith("git+"):
        hint = "release, tree, image, or git+https://HOST/REPO@REF"
        raise UsageError("what is the job to install?", where="--code", got=code, hint=hint)
    if code.startswith("git+") and "@" in code.partition("://")[2].partition("/")[0]:
        hint = "a password in it would be readable in the job's command: use a public address"
        raise UsageError("the address names a user", where="--code", got=code.partition("://")[0], hint=hint)
    return code


def pack_tree(bucket: Bucket) -> JobUpload:
    """Pack what is installed of the source tree; the same tree gives the same bytes. Nothing else goes along.

    Raises:
        UsageError: there is no source tree here.
    """
    code_of("tree")
    inside = io.BytesIO()
    with tarfile.open(fileobj=inside, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in _tree_files():
            content = path.read_bytes()
            entry = tarfile.TarInfo(f"{PACKAGE}/{path.relative_to(_SOURCE).as_posix()}")
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    packed = gzip.compress(inside.getvalue(), mtime=0)
    name = bucket.path("code", hashlib.sha256(packed).hexdigest()[:32], f"{PACKAGE}.tar.gz")
    return JobUpload(files={name: packed}, path=f"{MOUNT}/{name}")


def _tree_files() -> Iterator[Path]:
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        yield _SOURCE / name
    for package in _SHIPPED:
        for path in sorted((_SOURCE / package).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield path


def pack_folder(bucket: Bucket, folder: Path, pattern: str) -> JobUpload:
    """Pack the files of a folder that match, for a job to read where they lie in the bucket.

    Raises:
        UsageError: the folder cannot be read.
    """
    try:
        found = {path.name: path.read_bytes() for path in sorted(folder.glob(pattern))}
    except OSError as cause:
        raise UsageError("a folder cannot be read", where=str(folder), got=str(cause)) from cause
    digest = hashlib.sha256(msgspec.json.encode({name: content.hex() for name, content in found.items()})).hexdigest()
    files = {bucket.path("given", digest[:32], name): content for name, content in found.items()}
    return JobUpload(files=files, path=f"{MOUNT}/{bucket.path('given', digest[:32])}")


def install_line(code: str, parcel: JobUpload | None) -> str:
    """Write the shell command that installs the code; "" where the image has it."""
    if code == "image":
        return ""
    wanted = f"{PACKAGE}[hub]=={annotator.__version__}"
    if code != "release":
        wanted = f"{PACKAGE}[hub] @ {f'file://{parcel.path}' if parcel else code}"
    return f"python3 -m pip install -q --disable-pip-version-check {shlex.quote(wanted)}"


def job_command(install: str, flags: list[str]) -> list[str]:
    """Write a job's command, on one line: what is installed, and the run that takes its place."""
    sync = shlex.join(["python3", "-P", "-m", "annotator", "sync", *flags])
    return ["bash", "-c", f"{install} && exec {sync}" if install else f"exec {sync}"]


def flags_of(settings: SyncSettings) -> list[str]:
    """Write settings as flags: those that differ from their defaults, but for places on this machine."""
    given, default = msgspec.to_builtins(settings, enc_hook=str), msgspec.to_builtins(type(settings)(), enc_hook=str)
    return [f"--{name}={_spelled(value)}" for name, value in _differing(type(settings), given, default)]


def _differing(
    kind: type[Settings], given: dict[str, Any], default: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any]]:
    for one in msgspec.structs.fields(kind):
        name = f"{prefix}{one.name}"
        if isinstance(one.type, type) and issubclass(one.type, Settings):
            yield from _differing(one.type, given[one.name], default[one.name], f"{name}.")
        elif given[one.name] != default[one.name] and name not in _LOCAL:
            yield name, given[one.name]


def _spelled(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list | tuple):
        return ",".join(str(part) for part in value)  # pyright: ignore[reportUnknownVariableType]
    return msgspec.json.encode(value).decode() if isinstance(value, dict) else str(value)
