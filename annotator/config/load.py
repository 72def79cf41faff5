"""Read settings from `annotator.toml`, and refuse values that no run could mean."""

import math
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from annotator.config.settings import SyncSettings
from annotator.errors import UsageError


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


def spell_episodes(indices: Iterable[int]) -> str:
    """Write ascending episode indices as `parse_episodes` reads them: `episode 4`, `episodes 0, 5-9`."""
    spans: list[tuple[int, int]] = []
    for index in indices:
        first = spans.pop()[0] if spans and spans[-1][1] == index - 1 else index
        spans.append((first, index))
    spelled = ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in spans)
    return f"episode{'s' * (',' in spelled or '-' in spelled)} {spelled}"


_ABOVE_ZERO = {
    "plan": ("frames_per_second", "max_video_frames", "max_frames_per_prompt", "contact_sheet_columns",
             "contact_sheet_frames_per_sheet", "contact_sheet_frame_width", "plan_max_steps", "subtask_relabel_frames"),
    "interjections": ("interjection_window_frames",),
    "vqa": ("vqa_emission_hz", "K"),
    "vocabulary": ("sample_episodes", "max_frames"),
    "executor": ("episode_parallelism", "decode_threads", "write_threads"),
    "vlm": ("request_timeout_s", "serve_ready_timeout_s", "tensor_parallel_size"),
}  # fmt: skip
_NOT_BELOW_ZERO = {
    "plan": ("n_task_rephrasings", "min_subtask_seconds", "video_frame_width"),
    "plan.task_aug_axes": ("synonym_paraphrase", "omit_arm", "omit_orientation", "omit_grasp_method",
                           "combined_omissions"),
    "interjections": ("max_interjections_per_episode", "interjection_min_t", "interjection_window_seconds",
                      "frame_width"),
    "vlm": ("temperature", "top_p", "client_concurrency", "request_max_retries", "parallel_servers", "num_gpus"),
}  # fmt: skip
_AT_MOST = {
    "plan.n_task_rephrasings": 64,
    "plan.plan_max_steps": 64,
    **{f"plan.task_aug_axes.{name}": 16 for name in _NOT_BELOW_ZERO["plan.task_aug_axes"]},
    "plan.contact_sheet_quality": 95,
}
"""What an answer has room for, and what JPEG knows."""


def check(settings: SyncSettings) -> None:
    """Refuse values that no run could mean.

    Raises:
        UsageError: naming the setting and what was found.
    """
    for name, value in _values(settings, _ABOVE_ZERO):
        if not 0 < value < math.inf:
            raise UsageError("setting out of range", where=f"--{name}", got=str(value), hint="must be above 0")
    for name, value in _values(settings, _NOT_BELOW_ZERO):
        if not 0 <= value < math.inf:
            raise UsageError("setting out of range", where=f"--{name}", got=str(value), hint="must not be below 0")
    if settings.max_failures < 0:
        got = str(settings.max_failures)
        raise UsageError("setting out of range", where="--max_failures", got=got, hint="0 sets no limit")
    for name, most in _AT_MOST.items():
        value = _value(settings, name)
        if value > most:
            raise UsageError("setting out of range", where=f"--{name}", got=str(value), hint=f"at most {most}")
    for name in ("chat_template_kwargs", "mm_processor_kwargs"):
        _refuse_unnameable(getattr(settings.vlm, name), name)
    if settings.plan.contact_sheet_quality < 1:
        got = str(settings.plan.contact_sheet_quality)
        raise UsageError("setting out of range", where="--plan.contact_sheet_quality", got=got, hint="1 to 95")
    if settings.vqa.enabled and not settings.vqa.question_types:
        raise UsageError("no type of question is left", where="--vqa.question_types", hint="--vqa.enabled false")
    if settings.vlm.camera_key is not None and settings.vlm.camera_keys:
        raise UsageError("two settings name cameras", where="--vlm.camera_key, --vlm.camera_keys", hint="give one")


def _values(settings: SyncSettings, names: Mapping[str, Iterable[str]]) -> Iterator[tuple[str, float]]:
    for group, fields in names.items():
        for field in fields:
            yield f"{group}.{field}", _value(settings, f"{group}.{field}")


def _value(settings: SyncSettings, name: str) -> float:
    value: Any = settings
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _refuse_unnameable(value: object, name: str) -> None:
    """NaN and infinities have no JSON, so no key could cover them."""
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError("setting is no number", where=f"--vlm.{name}", got=str(value))
    if isinstance(value, dict | list):
        parts = cast("dict[str, object]", value).values() if isinstance(value, dict) else cast("list[object]", value)
        for part in parts:
            _refuse_unnameable(part, name)


def read_toml(path: Path, kind: type[SyncSettings] = SyncSettings) -> SyncSettings:
    """Read defaults from an `annotator.toml`: the same dotted names, as tables.

    `kind`: the settings with those of third-party modules, see `annotator.modules.third_party.sync_settings`.

    Raises:
        UsageError: not TOML, an unknown name, or a value of the wrong type.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
        if isinstance(values.get("only_episodes"), int | list):
            values["only_episodes"] = str(values["only_episodes"])
        return msgspec.convert(_underscored(values), kind, dec_hook=_decode_path)
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
