"""What a job is given: a command that installs the code and runs `annotator sync`, and the files for that."""

import gzip
import hashlib
import io
import shlex
import tarfile
from pathlib import Path
from typing import Any, TypeVar

import msgspec

import annotator
from annotator.config.flags import changed, spell_value
from annotator.config.settings import ExecutorSettings, Settings, SyncSettings, VlmSettings
from annotator.errors import UsageError
from annotator.hub.bucket import Bucket
from annotator.jobs.request import Hardware
from annotator.vlm.registry import engine_named

Group = TypeVar("Group", bound=Settings)

BOOT_S = 30 * 60
"""From the start of the machine to the first call: pulling the image, installing, downloading dataset and model,
loading the model. An assumption, not a measurement."""
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


class JobPackage(msgspec.Struct, frozen=True, kw_only=True):
    """A job's command, and the files that it finds in its bucket: path in the bucket → content."""

    command: list[str]
    files: dict[str, bytes]


def package_job(settings: SyncSettings, code: str, bucket: Bucket, hardware: Hardware) -> JobPackage:
    """Return what a job needs to run with these settings: what it cannot download elsewhere is packed.

    Raises:
        UsageError: a folder cannot be read.
    """
    tree = pack_tree(bucket) if code == "tree" else None
    folders: dict[str, JobUpload] = {}
    if settings.prompts is not None:
        folders["--prompts"] = pack_folder(bucket, settings.prompts, "*.md")
    if settings.validation.rules is not None:
        folders["--validation.rules"] = pack_folder(bucket, settings.validation.rules, "*.sql")
    flags = flags_of(job_settings(settings, hardware))
    flags += [f"{flag}={upload.path}" for flag, upload in folders.items()]
    files: dict[str, bytes] = {}
    for upload in [*([tree] if tree else []), *folders.values()]:
        files |= upload.files
    return JobPackage(command=job_command(install_line(code, tree), flags), files=files)


def job_settings(settings: SyncSettings, hardware: Hardware) -> SyncSettings:
    """Return settings that put the machine to use: a server for each GPU, more requests and episodes at once.

    Only settings that are part of no key are changed, each unless it was given.
    """
    vlm = _with_defaults(settings.vlm, VlmSettings(), {"client_concurrency": 64})
    if vlm.api_base is None:
        vlm = _with_defaults(vlm, VlmSettings(), {"backend": "serve"})
        if "serve_ready_timeout_s" in engine_named(vlm.backend).options:
            vlm = _with_defaults(vlm, VlmSettings(), {"serve_ready_timeout_s": float(BOOT_S)})
    parallel = {"episode_parallelism": 32 * max(hardware.gpus, 1), "decode_threads": 8}
    executor = _with_defaults(settings.executor, ExecutorSettings(), parallel)
    return msgspec.structs.replace(settings, vlm=vlm, executor=executor)


def _with_defaults(given: Group, default: Group, values: dict[str, Any]) -> Group:
    """Set those of the values whose field was left at its default."""
    unset = {name: value for name, value in values.items() if getattr(given, name) == getattr(default, name)}
    return msgspec.structs.replace(given, **unset)


def choose_code(code: str | None) -> str:
    """Return what a job installs: `code`, or the source tree, or the release where this is no source tree.

    Raises:
        UsageError: `code` is none of the possible values, or there is no source tree.
    """
    is_tree = (_SOURCE / "pyproject.toml").is_file()
    code = code or ("tree" if is_tree else "release")
    if code == "tree" and not is_tree:
        hint = "--code release, or run this from a source tree"
        raise UsageError("there is no source tree to upload", where="--code tree", got=str(_SOURCE), hint=hint)
    if code not in ("release", "tree", "image") and not code.startswith("git+"):
        hint = "release, tree, image, or git+https://HOST/REPO@REF"
        raise UsageError("unknown code to install", where="--code", got=code, hint=hint)
    if code.startswith("git+") and "@" in code.partition("://")[2].partition("/")[0]:
        hint = "a password in it would be readable in the job's command: use a public address"
        raise UsageError("the address contains a user name", where="--code", got=code.partition("://")[0], hint=hint)
    return code


def pack_tree(bucket: Bucket) -> JobUpload:
    """Pack what is installed of the source tree, and nothing else; the same tree gives the same bytes.

    Raises:
        UsageError: there is no source tree.
    """
    choose_code("tree")
    paths = [_SOURCE / name for name in ("pyproject.toml", "README.md", "LICENSE")]
    for package in _SHIPPED:
        files = sorted((_SOURCE / package).rglob("*"))
        paths += [path for path in files if path.is_file() and "__pycache__" not in path.parts]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for path in paths:
            content = path.read_bytes()
            # A fresh entry has no times and no owner, which differ from one checkout to the next.
            entry = tarfile.TarInfo(f"{PACKAGE}/{path.relative_to(_SOURCE).as_posix()}")
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    packed = gzip.compress(archive.getvalue(), mtime=0)
    name = bucket.path("code", hashlib.sha256(packed).hexdigest()[:32], f"{PACKAGE}.tar.gz")
    return JobUpload(files={name: packed}, path=f"{MOUNT}/{name}")


def pack_folder(bucket: Bucket, folder: Path, pattern: str) -> JobUpload:
    """Pack the files of a folder that match, under the digest of their content.

    Raises:
        UsageError: the folder cannot be read.
    """
    try:
        contents = {path.name: path.read_bytes() for path in sorted(folder.glob(pattern))}
    except OSError as cause:
        raise UsageError("a folder cannot be read", where=str(folder), got=str(cause)) from cause
    hexed = {name: content.hex() for name, content in contents.items()}
    digest = hashlib.sha256(msgspec.json.encode(hexed)).hexdigest()[:32]
    files = {bucket.path("given", digest, name): content for name, content in contents.items()}
    return JobUpload(files=files, path=f"{MOUNT}/{bucket.path('given', digest)}")


def install_line(code: str, tree: JobUpload | None) -> str:
    """Return the shell command that installs the code; "" where the image has it."""
    if code == "image":
        return ""
    requirement = f"{PACKAGE}[hub]=={annotator.__version__}"
    if code != "release":
        requirement = f"{PACKAGE}[hub] @ {f'file://{tree.path}' if tree else code}"
    return f"python3 -m pip install -q --disable-pip-version-check {shlex.quote(requirement)}"


def job_command(install: str, flags: list[str]) -> list[str]:
    """Return a job's command, on one line: install, then become the run, which so receives the job's signals."""
    sync = shlex.join(["python3", "-P", "-m", "annotator", "sync", *flags])
    return ["bash", "-c", f"{install} && exec {sync}" if install else f"exec {sync}"]


def flags_of(settings: SyncSettings) -> list[str]:
    """Write settings as flags: those that differ from their defaults, but for places on this machine."""
    return [f"--{name}={spell_value(value)}" for name, value in changed(settings, lambda n: n not in _LOCAL).items()]
