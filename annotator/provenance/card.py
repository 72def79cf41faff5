"""The dataset card: one section of the dataset's `README.md` says how its language was made, and how to check that.

The section stands between two HTML comments. Everything else in the file is the user's, and is kept byte for byte.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from annotator.config.flags import spell_flags
from annotator.config.settings import SyncSettings, VlmSettings
from annotator.modules.base import Module
from annotator.modules.registry import SHIPPED, all_modules, prompt_folders
from annotator.modules.vocabulary.file import FILE as WORDS
from annotator.prompting.loader import load_prompts
from annotator.provenance.lock import FILE, Lock, prompt_digests, write_if_changed
from annotator.provenance.setups import PinnedModel, PinnedSetup
from annotator.vlm.registry import engine_of_model
from annotator_store.errors import StoreError

BEGIN = b"<!-- annotator:begin -->"
END = b"<!-- annotator:end -->"
_MARKER = re.compile(rb"<!-- annotator:(begin|end) -->")


def update_card(path: Path, lock: Lock, counts: Mapping[str, int], note: Callable[[str], None] | None = None) -> bool:
    """Update the section of a card, or append it; return whether the file was written.

    `counts`: rows by style. Where one of the two comments is missing or occurs twice, the file is left alone and `note`
    is called.

    Raises:
        StoreError: the file cannot be read or written.
    """
    text = with_section(read_card(path), lock, counts)
    if text is not None:
        return write_if_changed(path, text)
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
    """Return a card's text with its section up to date; None where its two comments are no pair."""
    newline = b"\r\n" if b"\r\n" in text else b"\n"
    section = b"\n".join([BEGIN, render_section(lock, counts).encode(), END]).replace(b"\n", newline)
    markers = list(_MARKER.finditer(text))
    if [marker.group() for marker in markers] == [BEGIN, END]:
        return text[: markers[0].start()] + section + text[markers[1].end() :]
    if markers:
        return None
    # One empty line between the user's text and the section.
    lacking = b"" if not text or text.endswith(newline * 2) else newline if text.endswith(newline) else newline * 2
    return text + lacking + section + newline


def render_section(lock: Lock, counts: Mapping[str, int]) -> str:
    """Return the text between the comments, without the newline at its end."""
    # Each prompt with each seed that it was asked with, the setup of most episodes first.
    prompts = [(lock.seed, item) for item in sorted(lock.prompts.items())]
    prompts += [(other.made.seed, item) for other in lock.others for item in sorted(other.made.prompts.items())]
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
        *(f"| {step} | {seed} | `{digest}` |" for seed, (step, digest) in dict.fromkeys(prompts)),
        "",
        f"`{FILE.as_posix()}` pins all of this, and the content of every shard's two columns.",
        "With the log of the annotations in `.annotator/`, in this folder:",
        "",
        "```sh",
        "annotator verify .           # derives every digest again, and names what differs",
        " ".join(["annotator sync . --offline", spell_flags(setup_flags(lock))]).rstrip()
        + "   # builds the columns again, without a model",
        "```",
    ]
    if _has_own_prompts(lock):
        lines += [
            "",
            "`PROMPTS` is the folder of own prompts that these rows were asked for with; their digests are above.",
        ]
    return "\n".join(lines)


def setup_flags(lock: Lock, modules: Iterable[Module] = SHIPPED) -> dict[str, Any]:
    """Return the settings, by flag, with which a run finds in the log what most episodes were made from.

    `modules`: those of which none may be run that is not in the lock. A card says nothing of third-party ones, since
    whoever reads it may not have them.
    """
    flags: dict[str, Any] = {}
    model_id = lock.model.model_id if lock.model else None
    engine = engine_of_model(model_id or "")
    if engine is not None:
        flags["vlm.backend"] = engine.name
    elif lock.model is not None:
        defaults = msgspec.to_builtins(VlmSettings())
        given = {"model_id": lock.model.model_id, "model_revision": lock.model.revision} | lock.model.settings
        others = {name: value for name, value in given.items() if name in defaults and value != defaults[name]}
        flags |= {f"vlm.{name}": value for name, value in ({"model_id": lock.model.model_id} | others).items()}
    reads_signals = engine is not None and engine.reads_evidence
    if lock.seed not in (None, SyncSettings().seed):
        flags["seed"] = lock.seed
    for module in modules if lock.modules else ():
        blind = module.needs_pixels and reads_signals  # it leaves these out by itself
        if module.name not in lock.modules and not blind:
            flags[f"{module.name}.enabled"] = False
    if _worded_modules() & lock.modules.keys() and lock.vocabulary is None and not reads_signals:
        flags["vocabulary.enabled"] = False
    for settings in lock.settings.values():
        flags |= settings
    return flags | ({"prompts": "PROMPTS"} if _has_own_prompts(lock) else {})


def _model(model: PinnedModel | None) -> str:
    if model is None:
        return "not noted"
    revision = f" at revision `{model.revision}`" if model.revision else ""
    return f"`{model.model_id}`{revision}, digest `{model.digest}`"


def _others(lock: Lock) -> list[str]:
    """Return the lines about episodes that were made otherwise than most."""
    if not lock.others:
        return []
    lines = [
        f"- {other.module}: {other.episodes} episode{'s' * (other.episodes > 1)}: "
        + "; ".join(_differences(lock, other.module, other.made))
        for other in lock.others
    ]
    head = f"These were made otherwise, as `others` in `{FILE.as_posix()}` says in full:"
    return ["", head, "", *lines]


def _differences(lock: Lock, module: str, made: PinnedSetup) -> Iterator[str]:
    """Yield in what a module's setup differs from that of most episodes."""
    if made.model != lock.model:
        yield f"model {_model(made.model)}"
    if made.seed != lock.seed:
        yield f"seed {'not noted' if made.seed is None else made.seed}"
    if module in _worded_modules() and made.vocabulary != lock.vocabulary:
        yield f"vocabulary `{made.vocabulary}`" if made.vocabulary else "no vocabulary"
    if made.settings != lock.settings.get(module, {}):
        yield f"settings `{spell_flags(made.settings)}`" if made.settings else "the default settings"
    prompts = [step for step, digest in made.prompts.items() if lock.prompts.get(step) != digest]
    if prompts:
        yield f"prompt{'s' * (len(prompts) > 1)} {', '.join(prompts)}"
    if made.version != lock.modules.get(module):
        yield f"version {'not noted' if made.version is None else made.version}"


def _vocabulary(lock: Lock) -> list[str]:
    """Return the line about the vocabulary. Where there were several, the file is the last one, maybe another."""
    file, digest = f"`{WORDS.as_posix()}`", f"digest `{lock.vocabulary}`"
    mixed = any(one.module in _worded_modules() and one.made.vocabulary != lock.vocabulary for one in lock.others)
    if lock.vocabulary is None:
        return []
    if mixed:
        return [f"Vocabulary of most episodes: {digest}; {file} may be another."]
    return [f"Vocabulary: {file}, {digest}."]


def _has_own_prompts(lock: Lock) -> bool:
    return not lock.prompts.items() <= prompt_digests(load_prompts(None, prompt_folders())).items()


def _worded_modules() -> set[str]:
    """Return the names of the modules whose rows are worded in the vocabulary."""
    return {module.name for module in all_modules() if module.uses_vocabulary}
