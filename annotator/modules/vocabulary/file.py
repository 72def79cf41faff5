"""Read and write `meta/canonical_vocabulary.json`: the vocabulary as a person reads and edits it.

    {"note": "…", "subtasks": ["grip the cup by its handle", …], "memory_milestones": ["I put the cup on the tray.", …]}

LeRobot keeps its own at this path under these names, so each can read what the other found; `memories` is read too.
What is read is strict, since a typo here would be written into every episode; white space and a label's full stop do
not count. Without milestones no memory is written.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from annotator.errors import VocabularyError
from annotator.modules.vocabulary.entries import LONGEST_ENTRY, Vocabulary
from annotator.prompting.normalize import sameness, tidy_label, tidy_memory
from annotator_store.atomic_files import replace_content, write_hint

FILE = Path("meta") / "canonical_vocabulary.json"
"""Where it lies in a dataset."""

MOST_ENTRIES = 256
"""Entries of one list at most: each stands in every prompt, and in the schema that holds a model to them."""

NOTE = (
    "Every subtask of this dataset is one of these, and every memory is made of these milestones. Edit, add, remove or "
    "reorder entries as you like; the next run takes them as they are and asks again only for what that changes."
)


MILESTONES = "memory_milestones"
"""What memory is made of, by the name that is written.

Source: LeRobot's src/lerobot/annotations/steerable_pipeline/vocabulary.py, `Vocabulary.to_json`.
"""


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    note: str = ""
    subtasks: list[str]
    memory_milestones: list[str]


def read_vocabulary(path: Path) -> Vocabulary | None:
    """Read the file; None where there is none.

    Raises:
        VocabularyError: it cannot be read, is not JSON, has another shape, or an entry is blank, doubled or too long.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as cause:
        hint = "it is a text file in UTF-8; without it the vocabulary is found anew"
        raise VocabularyError("the vocabulary cannot be read", where=str(path), got=str(cause), hint=hint) from cause
    try:
        file = msgspec.convert(json.loads(text, object_pairs_hook=_distinct_keys), _File)
    except (json.JSONDecodeError, RecursionError) as cause:
        hint = (
            "commas stand between entries and not after the last; quotes are straight and double;\n      "
            "delete it to have it found, or use --vocabulary.enabled=false"
        )
        raise VocabularyError("the vocabulary is not JSON", where=str(path), got=str(cause), hint=hint) from cause
    except (msgspec.ValidationError, ValueError) as cause:
        hint = f'it is {{"note": "…", "subtasks": ["…"], "{MILESTONES}": ["…"]}}; "{MILESTONES}": [] writes no memory'
        raise VocabularyError("the vocabulary has another shape", where=str(path), got=str(cause), hint=hint) from cause
    subtasks = _entries("subtasks", file.subtasks, tidy_label, str(path))
    if not subtasks:
        hint = "write at least one, or delete the file to have them found, or use --vocabulary.enabled=false"
        raise VocabularyError("the vocabulary has no subtasks", where=f"{path}, subtasks", got="[]", hint=hint)
    return Vocabulary(subtasks=subtasks, memories=_entries(MILESTONES, file.memory_milestones, tidy_memory, str(path)))


def write_vocabulary(path: Path, vocabulary: Vocabulary) -> bool:
    """Write the file, whole or not at all, and return whether it had to be written.

    A file that already says the same is left alone, with its layout and its note.

    Raises:
        VocabularyError: it cannot be written.
    """
    with suppress(VocabularyError):
        if read_vocabulary(path) == vocabulary:
            return False
    lists = {"subtasks": vocabulary.subtasks, MILESTONES: vocabulary.memories}
    text = json.dumps({"note": NOTE, **lists}, indent=2, ensure_ascii=False) + "\n"
    try:
        replace_content(path, text.encode())
    except OSError as cause:
        hint = write_hint(cause)
        raise VocabularyError("the vocabulary cannot be written", where=str(path), got=str(cause), hint=hint) from cause
    return True


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [MILESTONES if name == "memories" else name for name, _ in pairs]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise ValueError(f"{', '.join(doubled)} stands there twice")
    return {name: value for name, (_, value) in zip(names, pairs, strict=True)}


def _entries(name: str, texts: Sequence[str], tidy: Callable[[str], str], where: str) -> tuple[str, ...]:
    if len(texts) > MOST_ENTRIES:
        hint = f"at most {MOST_ENTRIES}: merge what is nearly alike"
        raise VocabularyError("the vocabulary is too long", where=f"{where}, {name}", got=str(len(texts)), hint=hint)
    places: dict[str, int] = {}
    entries: list[str] = []
    for number, text in enumerate(texts, start=1):
        entry, place = tidy(text), f"{where}, {name}, entry {number}"
        if not sameness(entry):
            raise VocabularyError("an entry is blank", where=place, got=repr(text), hint="remove it")
        if len(entry) > LONGEST_ENTRY:
            got, hint = f"{len(entry)} characters", f"at most {LONGEST_ENTRY}"
            raise VocabularyError("an entry is too long", where=place, got=got, hint=hint)
        first = places.setdefault(sameness(entry), number)
        if first != number:
            hint = f"it says the same as entry {first}; keep one of them"
            raise VocabularyError("an entry is there twice", where=place, got=repr(text), hint=hint)
        entries.append(entry)
    return tuple(entries)
