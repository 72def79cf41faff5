"""The dataset card: one section of the dataset's `README.md` says how its language was made, and how to check that.

The section stands between two HTML comments. All else in the file is the user's, and comes back byte for byte.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from annotator.config.flags import spell_flags
from annotator.config.settings import SyncSettings, VlmSettings
from annotator.modules.registry import MODULES
from annotator.modules.vocabulary.file import FILE as WORDS
from annotator.prompting.loader import load_prompts
from annotator.provenance.lock import FILE, Lock, prompt_digests, replace_if_other
from annotator.provenance.setups import OtherSetup, PinnedModel
from annotator.vlm.registry import engine_of_model
from annotator_store.errors import StoreError

BEGIN = b"<!-- annotator:begin -->"
END = b"<!-- annotator:end -->"
_MARKER = re.compile(rb"<!-- annotator:(begin|end) -->")


def update_card(path: Path, lock: Lock, counts: Mapping[str, int], note: Callable[[str], None] | None = None) -> bool:
    """Bring the section of a card up to date, at its end if it has none yet; say whether it had to be written.

    `counts`: rows by style. Where one of the two comments is missing, or stands there twice, the file is left alone,
    and `note` is told.

    Raises:
        StoreError: the file cannot be read or written.
    """
    text = with_section(read_card(path), lock, counts)
    if text is not None:
        return replace_if_other(path, text)
    if note is not None:
        hint = f"leave one {BEGIN.decode()} and, after it, one {END.decode()}, or neither"
        note(f"the dataset card is left as it is: its comments are not one pair – {path}\nhint: {hint}")
    return False


def read_card(path: Path) -> bytes:
    """Read a card; empty where there is none.

    Raises:
        StoreError: it cannot be read.
    """
    try:
        return path.read_bytes() if path.exists() else b""
    except OSError as cause:
        raise StoreError("the dataset card cannot be read", where=str(path), got=str(cause)) from cause


def with_section(text: bytes, lock: Lock, counts: Mapping[str, int]) -> bytes | None:
    """Give a card's text with its section up to date; None where its two comments are no pair."""
    newline = b"\r\n" if b"\r\n" in text else b"\n"
    section = b"\n".join([BEGIN, render_section(lock, counts).encode(), END]).replace(b"\n", newline)
    found = list(_MARKER.finditer(text))
    if [one.group() for one in found] == [BEGIN, END]:
        return text[: found[0].start()] + section + text[found[1].end() :]
    return None if found else text + _gap(text, newline) + section + newline


def render_section(lock: Lock, counts: Mapping[str, int]) -> str:
    """Render the section between the comments, without the newline at its end."""
    lines = [
        "## Language annotations",
        "",
        "The columns `language_persistent` and `language_events` were written by `annotator` (episode-annotator).",
        f"Model: {_model(lock.model)}.",
        *_vocabulary(lock),
        *_others(lock),
        "",
        "| style | rows |",
        "| --- | ---: |",
        *(f"| {style} | {count} |" for style, count in sorted(counts.items())),
        "",
        "| prompt | seed | prompt digest |",
        "| --- | ---: | --- |",
        *_prompts(lock),
        "",
        f"`{FILE.as_posix()}` pins all of this, and the content of every shard's two columns.",
        "With the log of the annotations in `.annotator/`, in this folder:",
        "",
        "```sh",
        "annotator verify .           # derives every digest again, and names what differs",
        " ".join(["annotator sync . --offline", spell_flags(recipe_flags(lock))]).rstrip()
        + "   # builds the columns again, without a model",
        "```",
        *_own_prompts(lock),
    ]
    return "\n".join(lines)


def recipe_flags(lock: Lock) -> dict[str, Any]:
    """Give the settings, by flag, under which a run finds in the log what most episodes show."""
    flags: dict[str, Any] = {}
    model_id = lock.model.model_id if lock.model else None
    engine = engine_of_model(model_id or "")
    if engine is not None:
        flags["vlm.backend"] = engine.name
    elif lock.model is not None:
        flags |= _model_flags(lock.model)
    reads_signals = engine is not None and engine.reads_evidence
    if lock.seed not in (None, SyncSettings().seed):
        flags["seed"] = lock.seed
    for module in MODULES if lock.modules else ():
        blind = module.name == "vqa" and reads_signals  # it leaves vqa out by itself
        if module.name not in lock.modules and not blind:
            flags[f"{module.name}.enabled"] = False
    if "plan" in lock.modules and lock.vocabulary is None and not reads_signals:
        flags["vocabulary.enabled"] = False
    for settings in lock.settings.values():
        flags |= settings
    return flags | ({"prompts": "PROMPTS"} if _has_own_prompts(lock) else {})


def _model_flags(model: PinnedModel) -> dict[str, Any]:
    defaults = msgspec.to_builtins(VlmSettings())
    given = {"model_id": model.model_id, "model_revision": model.revision} | model.settings
    others = {name: value for name, value in given.items() if name in defaults and value != defaults[name]}
    return {f"vlm.{name}": value for name, value in ({"model_id": model.model_id} | others).items()}


def _model(model: PinnedModel | None) -> str:
    if model is None:
        return "not noted"
    revision = f" at revision `{model.revision}`" if model.revision else ""
    return f"`{model.model_id}`{revision}, digest `{model.digest}`"


def _others(lock: Lock) -> list[str]:
    """Say which episodes were made otherwise than the rest."""
    if not lock.others:
        return []
    said = [
        f"- {one.module}: {one.episodes} episode{'s' * (one.episodes > 1)}: {'; '.join(_differences(lock, one))}"
        for one in lock.others
    ]
    head = f"These were made otherwise, as `others` in `{FILE.as_posix()}` says in full:"
    return ["", head, "", *said]


def _differences(lock: Lock, one: OtherSetup) -> Iterator[str]:
    """Say in what a setup is not that of most episodes."""
    made, module = one.made, one.module
    if made.model != lock.model:
        yield f"model {_model(made.model)}"
    if made.seed != lock.seed:
        yield f"seed {'not noted' if made.seed is None else made.seed}"
    if module == "plan" and made.vocabulary != lock.vocabulary:
        yield f"vocabulary `{made.vocabulary}`" if made.vocabulary else "no vocabulary"
    if made.settings != lock.settings.get(module, {}):
        yield f"settings `{spell_flags(made.settings)}`" if made.settings else "the default settings"
    prompts = [step for step, digest in made.prompts.items() if lock.prompts.get(step) != digest]
    if prompts:
        yield f"prompt{'s' * (len(prompts) > 1)} {', '.join(prompts)}"
    if made.version != lock.modules.get(module):
        yield f"version {'not noted' if made.version is None else made.version}"


def _vocabulary(lock: Lock) -> list[str]:
    """Name the vocabulary. Where episodes were held to several, the file is the last one, which may not be this."""
    file, digest = f"`{WORDS.as_posix()}`", f"digest `{lock.vocabulary}`"
    mixed = any(one.module == "plan" and one.made.vocabulary != lock.vocabulary for one in lock.others)
    if lock.vocabulary is None:
        return []
    if mixed:
        return [f"Vocabulary of most episodes: {digest}; {file} may be another."]
    return [f"Vocabulary: {file}, {digest}."]


def _prompts(lock: Lock) -> list[str]:
    """Pair every prompt with each seed that it was asked with, the setup of most episodes first."""
    pairs = [(lock.seed, item) for item in sorted(lock.prompts.items())]
    pairs += [(one.made.seed, item) for one in lock.others for item in sorted(one.made.prompts.items())]
    return [f"| {step} | {seed} | `{digest}` |" for seed, (step, digest) in dict.fromkeys(pairs)]


def _own_prompts(lock: Lock) -> list[str]:
    if not _has_own_prompts(lock):
        return []
    return ["", "`PROMPTS` is the folder of own prompts that these rows were asked for with; their digests are above."]


def _has_own_prompts(lock: Lock) -> bool:
    return not lock.prompts.items() <= prompt_digests(load_prompts()).items()


def _gap(text: bytes, newline: bytes) -> bytes:
    """What stands between the user's text and a section after it: one empty line."""
    if not text or text.endswith(newline * 2):
        return b""
    return newline if text.endswith(newline) else newline * 2
