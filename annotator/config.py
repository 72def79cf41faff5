"""Every setting, its name, its default. The command line and `annotator.toml` are generated from these structs.

Names are those of the pipeline this tool stands in for (`--vlm.model_id`, `--plan.n_task_rephrasings`, …).
Settings that can change an answer reach the key (see `annotator.recipe`); the rest is provenance.
"""

import math
import tomllib
from pathlib import Path
from typing import Any, Literal, cast

import msgspec

from annotator.errors import UsageError


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of every group of settings."""


class PlanSettings(Settings, frozen=True, kw_only=True):
    """The `plan` module: subtasks, plan, memory and task rephrasings."""

    enabled: bool = True
    """Write subtask, plan, memory and task_aug rows."""
    view: Literal["contact_sheets", "video"] = "contact_sheets"
    """How an episode is shown: grids of timed tiles (any server that takes images), or one video block."""
    frames_per_second: float = 2.0
    """Frames shown per second of episode. Long episodes are cut into windows rather than thinned out."""
    max_video_frames: int = 128
    """Frames per call with --plan.view=video; an episode with more is cut into windows."""
    max_frames_per_prompt: int = 60
    """Frames per call with --plan.view=contact_sheets; an episode with more is cut into windows."""
    contact_sheet_columns: int = 5
    """Tiles in a row of a contact sheet."""
    contact_sheet_frames_per_sheet: int = 20
    """Tiles on one contact sheet."""
    contact_sheet_frame_width: int = 224
    """Width of a tile, pixels."""
    contact_sheet_quality: int = 84
    """JPEG quality of sheets and frames, 1 to 95."""
    video_frame_width: int = 448
    """Width of a frame of a video block, pixels; 0 keeps the stored width."""
    derive_task_from_video: Literal["off", "if_short", "always"] = "if_short"
    """Read the task off the footage: never, where the given one is short or a placeholder, or always."""
    derive_task_min_words: int = 3
    """With if_short: a task of fewer words than this is read off the footage."""
    n_task_rephrasings: int = 10
    """Other wordings of the task to ask for; 0 asks for none and writes no task_aug rows."""
    min_subtask_seconds: float = 1.5
    """Shorter subtasks are merged into a neighbour."""
    plan_max_steps: int = 8
    """Subtasks asked for at most, per call."""
    subtask_describe_first: bool = True
    """Ask what visibly happens before asking for subtasks."""
    emit_plan: bool = True
    """Write a numbered plan of what is left at every subtask boundary."""
    emit_memory: bool = True
    """Write a memory of what matters so far at every subtask boundary."""


class VlmSettings(Settings, frozen=True, kw_only=True):
    """The model and the server that runs it."""

    backend: Literal["auto", "openai", "signals", "scripted", "offline"] = "auto"
    """Who answers: auto (a server that is named or found), openai, signals (no model), scripted (tests), offline."""
    model_id: str = "Qwen/Qwen3-VL-8B-Instruct"
    """The model's name, as the server knows it. Part of every key."""
    model_revision: str | None = None
    """The model's revision, where the server was started with one. Part of every key."""
    api_base: str | None = None
    """An OpenAI-compatible endpoint; unset looks at http://localhost:8000/v1."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the API key."""
    request_timeout_s: float = 600.0
    """Give up on a request after this many seconds."""
    request_max_retries: int = 4
    """Ask again this often after a timeout, a lost connection, a 429 or a 5xx, backing off."""
    client_concurrency: int = 16
    """Requests in flight at once; 0 sets no limit."""
    max_new_tokens: int = 2048
    """Longest reply, tokens."""
    temperature: float = 0.2
    """Sampling temperature."""
    top_p: float = 1.0
    """Nucleus sampling."""
    reasoning_effort: str | None = None
    """Sent along where set, for models that think."""
    chat_template_kwargs: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    """Arguments of the chat template, as JSON, such as {"enable_thinking": false}."""
    mm_processor_kwargs: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    """Arguments of the image processor, as JSON; the server must allow them."""
    camera_key: str | None = None
    """The camera to watch; unset takes the dataset's first."""


class ExecutorSettings(Settings, frozen=True, kw_only=True):
    """How much happens at once, on this machine. Never part of a key."""

    episode_parallelism: int = 16
    """Episodes in progress at once."""
    decode_threads: int = 2
    """Threads that decode footage."""
    write_threads: int = 2
    """Shards written at once."""


class SyncSettings(Settings, frozen=True, kw_only=True):
    """Everything `annotator sync` can be told."""

    root: Path = Path()
    """The dataset's folder. May also be given without the flag."""
    output: Path | None = None
    """Write a separate dataset here instead of in place; what is unchanged is linked."""
    store: Path | None = None
    """Where the log lives; unset takes .annotator in the dataset that is written."""
    prompts: Path | None = None
    """A folder of prompt files that replace the shipped ones, file by file."""
    seed: int = 1729
    """Sent with every call, and the root of every random choice."""
    only_episodes: str | None = None
    """Episodes to work on, such as 0,5-9; all others keep every row they have."""
    offline: bool = False
    """Answer from the log alone; a call that is not in it fails."""
    plan: PlanSettings = PlanSettings()
    vlm: VlmSettings = VlmSettings()
    executor: ExecutorSettings = ExecutorSettings()


def parse_episodes(text: str | None, known: list[int]) -> list[int]:
    """Read `0,5-9` (also `[0, 5]`) as episode indices of the dataset; None means all of them.

    Raises:
        UsageError: not such a list, or an episode the dataset does not have.
    """
    if text is None:
        return known
    wanted: set[int] = set()
    have = frozenset(known)
    for part in text.strip().strip("[]()").replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            raise UsageError("episodes cannot be read", where="--only_episodes", got=repr(text), hint="write 0,5-9")
        for index in range(int(first), int(last or first) + 1):
            if index not in have:
                hint = f"the dataset has episodes {known[0]} to {known[-1]}" if known else "the dataset has no episodes"
                raise UsageError("no such episode", where="--only_episodes", got=str(index), hint=hint)
            wanted.add(index)
    return sorted(wanted)


def check(settings: SyncSettings) -> None:
    """Refuse values that no run could mean.

    Raises:
        UsageError: naming the setting and what was found.
    """
    plan, limits = settings.plan, "must be above 0"
    for name in ("frames_per_second", "max_video_frames", "max_frames_per_prompt", "contact_sheet_columns",
                 "contact_sheet_frames_per_sheet", "contact_sheet_frame_width", "plan_max_steps"):  # fmt: skip
        if not 0 < getattr(plan, name) < math.inf:
            raise UsageError("setting out of range", where=f"--plan.{name}", got=str(getattr(plan, name)), hint=limits)
    for name in ("n_task_rephrasings", "min_subtask_seconds", "video_frame_width"):
        if not 0 <= getattr(plan, name) < math.inf:
            got = str(getattr(plan, name))
            raise UsageError("setting out of range", where=f"--plan.{name}", got=got, hint="must not be below 0")
    for name in ("temperature", "top_p"):
        if not 0 <= getattr(settings.vlm, name) < math.inf:
            got = str(getattr(settings.vlm, name))
            raise UsageError("setting out of range", where=f"--vlm.{name}", got=got, hint="must not be below 0")
    for name in ("chat_template_kwargs", "mm_processor_kwargs"):
        _refuse_unnameable(getattr(settings.vlm, name), name)
    if not 1 <= plan.contact_sheet_quality <= 95:
        got = str(plan.contact_sheet_quality)
        raise UsageError("setting out of range", where="--plan.contact_sheet_quality", got=got, hint="1 to 95")
    for name in ("episode_parallelism", "decode_threads", "write_threads"):
        if getattr(settings.executor, name) < 1:
            got = str(getattr(settings.executor, name))
            raise UsageError("setting out of range", where=f"--executor.{name}", got=got, hint="at least 1")


def _refuse_unnameable(value: object, name: str) -> None:
    """NaN and infinities have no JSON, so no key could cover them."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError("setting is no number", where=f"--vlm.{name}", got=str(value))
    if isinstance(value, dict | list):
        parts = cast("dict[str, object]", value).values() if isinstance(value, dict) else cast("list[object]", value)
        for part in parts:
            _refuse_unnameable(part, name)


def read_toml(path: Path) -> SyncSettings:
    """Read defaults from an `annotator.toml`: the same dotted names, as tables.

    Raises:
        UsageError: not TOML, an unknown name, or a value of the wrong type.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        if isinstance(values.get("only_episodes"), int | list):
            values["only_episodes"] = str(values["only_episodes"])
        return msgspec.convert(_underscored(values), SyncSettings, dec_hook=_decode_path)
    except OSError as cause:
        raise UsageError("settings cannot be read", where=str(path), got=str(cause)) from cause
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as cause:
        hint = "names are those of `annotator sync --help`"
        raise UsageError("settings cannot be read", where=str(path), got=str(cause), hint=hint) from cause


def _decode_path(kind: type, value: Any) -> Any:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"expected {kind.__name__}, got {type(value).__name__}")


def _underscored(values: dict[str, Any]) -> dict[str, Any]:
    tidy = {key.replace("-", "_"): value for key, value in values.items()}
    return {
        key: _underscored(cast("dict[str, Any]", value))
        if isinstance(value, dict) and not key.endswith("_kwargs")
        else value
        for key, value in tidy.items()
    }
