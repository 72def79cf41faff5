"""Arguments of the commands that speak to the Hub: `pull`, `push` and `job`."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from annotator.cli.parsing import parse_as, parse_sync, with_flag_values
from annotator.config.flags import part_flags
from annotator.config.settings import SyncSettings


@dataclass(frozen=True)
class PullArguments:
    """Download a dataset of the Hub with its log into a folder of plain files, and print where it lies.

    Again, only what is new there is downloaded. The next `annotator sync` on that folder starts from the log.
    """

    repo_id: Annotated[str, tyro.conf.Positional]
    """The dataset's name, org/name."""
    root: Path = Path()
    """The folder; unset takes a cache folder."""
    revision: str | None = None
    """A branch, tag or commit; unset takes the newest of main."""


@dataclass(frozen=True)
class PushArguments:
    """Push a dataset as it is, with its card, lock and log, and tag it with its codebase version. Prints the commit."""

    dataset: Annotated[Path | None, tyro.conf.Positional] = None
    """The dataset's folder; the same as --root."""
    root: Path = Path()
    """The dataset's folder."""
    repo_id: str | None = None
    """Where to, org/name; unset takes the dataset it was downloaded from."""
    store: Path | None = None
    """Where its log lies; unset takes .annotator in the dataset."""
    push_private: bool | None = None
    """A dataset that is made on the Hub is private; unset takes what the one is that this one was downloaded from."""


@dataclass(frozen=True)
class SubmitArguments:
    """Annotate a dataset of the Hub on Hugging Face Jobs. Takes all options of `annotator sync` beside these.

    One job installs the code, starts a model server for each GPU, runs `annotator sync` with the same options, delivers
    what is answered to a bucket every minute, and pushes at the end. First, what is left to do is counted on a local
    copy: where that is nothing, no job is submitted. Prints the job's name.
    """

    flavor: str = "h200"
    """The hardware: see `hf jobs hardware`."""
    timeout: str | None = None
    """End the job after this long, such as 90m or 6h; unset takes an estimate from episodes, calls and GPUs."""
    image: str = "vllm/vllm-openai:v0.32.0"
    """The container image: Python 3.11 or newer, and vLLM."""
    code: str | None = None
    """What the job installs: release, tree (the code at hand), image (it is in there), or git+https://HOST/REPO@REF.
    Unset takes tree where this runs from a source tree, else release."""
    namespace: str | None = None
    """Whose job it is: a user or an organization; unset takes the token's own."""
    count: bool = True
    """Count what is left to do first. Without a count, name the timeout."""
    again: bool = False
    """Submit it also where a job that has not ended works on the same dataset and bucket."""


@dataclass(frozen=True)
class JobArguments:
    """Look after jobs. wait: exit status 0 where the job completed, else 1.

    annotator job status|logs|wait|cancel ID
    """

    action: Annotated[Literal["status", "logs", "wait", "cancel"], tyro.conf.Positional]
    """status, logs, wait or cancel."""
    job_id: Annotated[str | None, tyro.conf.Positional] = None
    """The job's name, as `submit` printed it. Without one, status lists the jobs that annotate."""
    namespace: str | None = None
    """Whose job it is, where its name does not say."""
    follow: bool = False
    """logs: go on until the job ends."""


def parse_pull(args: Sequence[str]) -> PullArguments:
    """Read `annotator pull`'s arguments."""
    return parse_as("pull", PullArguments, args)


def parse_push(args: Sequence[str]) -> PushArguments:
    """Read `annotator push`'s arguments."""
    parsed = parse_as("push", PushArguments, list(with_flag_values(args, {"--push_private"})))
    return replace(parsed, root=parsed.dataset or parsed.root)


def parse_job(args: Sequence[str]) -> JobArguments:
    """Read the arguments of `annotator job status`, `logs`, `wait` and `cancel`."""
    return parse_as("job", JobArguments, list(with_flag_values(args, {"--follow"})))


def parse_submit(args: Sequence[str]) -> tuple[SubmitArguments, SyncSettings]:
    """Part the job's own arguments from those of `annotator sync`, and read both.

    Raises:
        UsageError: the settings file cannot be read, or more than one dataset is named.
        SystemExit: status 2 for arguments that cannot be read, 0 after --help.
    """
    own = {f"--{one.name}" for one in fields(SubmitArguments)}
    mine: list[str] = []
    others: list[str] = []
    flags, loose = part_flags(with_flag_values(list(with_flag_values(args, {"--count", "--again"}))))
    for flag, values in _grouped(flags):
        name = flag.partition("=")[0].replace("-", "_").replace("__", "--", 1)
        (mine if name in own or flag in ("-h", "--help") else others).extend([flag, *values])
    return parse_as("job submit", SubmitArguments, mine), parse_sync([*others, *loose])


def _grouped(flags: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Give each flag with the value that follows it."""
    grouped: list[tuple[str, list[str]]] = []
    waiting = False
    for word in flags:
        if waiting:
            grouped[-1][1].append(word)
            waiting = False
        else:
            grouped.append((word, []))
            waiting = "=" not in word and word not in ("-h", "--help")
    return grouped
