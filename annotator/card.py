"""The dataset card: one section of the dataset's `README.md` says how its language was made, and how to check that.

The section stands between two HTML comments. All else in the file is the user's, and comes back byte for byte.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from annotator.lock import FILE, Lock, replace_if_other
from annotator.vocabulary_file import FILE as WORDS
from store.errors import StoreError

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
    try:
        text = path.read_bytes() if path.exists() else b""
    except OSError as cause:
        raise StoreError("the dataset card cannot be read", where=str(path), got=str(cause)) from cause
    newline = b"\r\n" if b"\r\n" in text else b"\n"
    section = b"\n".join([BEGIN, render_section(lock, counts).encode(), END]).replace(b"\n", newline)
    found = list(_MARKER.finditer(text))
    if [one.group() for one in found] == [BEGIN, END]:
        text = text[: found[0].start()] + section + text[found[1].end() :]
    elif found:
        if note is not None:
            hint = f"leave one {BEGIN.decode()} and, after it, one {END.decode()}, or neither"
            note(f"the dataset card is left as it is: its comments are not one pair – {path}\nhint: {hint}")
        return False
    else:
        text += _gap(text, newline) + section + newline
    return replace_if_other(path, text)


def render_section(lock: Lock, counts: Mapping[str, int]) -> str:
    """Render the section between the comments, without the newline at its end."""
    model = f"`{lock.model.model_id}`"
    revision = f" at revision `{lock.model.revision}`" if lock.model.revision else ""
    vocabulary = f"\nVocabulary: `{WORDS.as_posix()}`, digest `{lock.vocabulary}`." if lock.vocabulary else ""
    lines = [
        "## Language annotations",
        "",
        "The columns `language_persistent` and `language_events` were written by `annotator` (episode-annotator).",
        f"Model: {model}{revision}, digest `{lock.model.digest}`.{vocabulary}",
        "",
        "| style | rows |",
        "| --- | ---: |",
        *(f"| {style} | {count} |" for style, count in sorted(counts.items())),
        "",
        "| prompt | seed | prompt digest |",
        "| --- | ---: | --- |",
        *(f"| {step} | {lock.seed} | `{digest}` |" for step, digest in sorted(lock.prompts.items())),
        "",
        f"`{FILE.as_posix()}` pins all of this, and the content of every shard's two columns.",
        "With the log of the annotations in `.annotator/`, and the settings of the run in `annotator.toml`:",
        "",
        "```sh",
        "annotator verify .           # derives every digest again, and names what differs",
        "annotator sync . --offline   # builds the columns again, without a model",
        "```",
    ]
    return "\n".join(lines)


def _gap(text: bytes, newline: bytes) -> bytes:
    """What stands between the user's text and a section after it: one empty line."""
    if not text or text.endswith(newline * 2):
        return b""
    return newline if text.endswith(newline) else newline * 2
