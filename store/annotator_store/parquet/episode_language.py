"""The content of the two language columns for one episode, without Arrow: checked, in order, with a digest.

    rows -> EpisodeLanguage -> columns of a shard -> EpisodeLanguage -> rows

Both directions meet in `EpisodeLanguage`, so whether a shard is up to date, and whether it was written as intended, is
one comparison of frozen values.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import groupby

import msgspec

from annotator_store.digests import Digest, Keyed, digest_parts
from annotator_store.errors import ShardError
from annotator_store.rows import PERSISTENT, Row, column_for_style, names_camera, order_key


class EpisodeRows(msgspec.Struct, frozen=True, kw_only=True):
    """The rows that an episode is to have; `start` and `stop` are its row offsets in the shard.

    `rows=None` keeps the rows that the shard has for this episode: none where it has no language columns.
    """

    start: int
    stop: int
    rows: tuple[Row, ...] | None


class RowRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The same list of persistent rows on `frames` consecutive frames."""

    frames: int
    rows: tuple[Row, ...]


class FrameEvents(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The event rows of one frame, never empty; their `timestamp` is the frame's.

    `repeat`: the number of earlier frames of the episode with the same timestamp; 0 in every valid dataset.
    """

    repeat: int
    rows: tuple[Row, ...]


class EpisodeLanguage(Keyed, frozen=True, kw_only=True):
    """Both columns of one episode. A valid episode has one run; events are ordered by (timestamp, repeat)."""

    tag_v = "episode_language.v1"
    runs: tuple[RowRun, ...]
    events: tuple[FrameEvents, ...]

    def rows(self, where: str = "") -> tuple[Row, ...]:
        """Return the rows: the persistent ones in their order, then the events.

        Raises:
            ShardError: the persistent list changes within the episode, so it has no one list.
        """
        if len(self.runs) > 1:
            raise ShardError(
                "the persistent rows change within an episode",
                where=where,
                got=f"{len(self.runs)} different lists",
                hint="another tool wrote this; drop the columns language_persistent and language_events from the shard",
            )
        persistent = self.runs[0].rows if self.runs else ()
        return persistent + tuple(row for event in self.events for row in event.rows)


_encoder = msgspec.json.Encoder(order="sorted")
_decoder = msgspec.json.Decoder(EpisodeLanguage)


def without_rows(frames: int) -> EpisodeLanguage:
    """Return the language of an episode that has no rows."""
    return EpisodeLanguage(runs=(RowRun(frames, ()),) if frames else (), events=())


def arrange(rows: Iterable[Row], frames: int, where: str = "") -> EpisodeLanguage:
    """Check rows against the format and sort them.

    Raises:
        ShardError: a row breaks the format; it names `where`, the row's timestamp and what is wrong.
    """
    checked = sorted(
        (check_row(row, where) for row in rows),
        # `order_key` reads None as "": the two flags keep such rows apart whatever order they came in.
        key=lambda row: (*order_key(row), row.content is not None, row.tool_calls is not None),
    )
    if checked and not frames:
        raise ShardError("an episode without frames has rows", where=where, got=f"{len(checked)} rows")
    persistent = tuple(row for row in checked if column_for_style(row.style) == PERSISTENT)
    events = [row for row in checked if column_for_style(row.style) != PERSISTENT]
    return EpisodeLanguage(
        runs=(RowRun(frames, persistent),) if frames else (),
        events=tuple(FrameEvents(0, tuple(rows)) for _, rows in groupby(events, key=lambda row: row.timestamp)),
    )


def check_row(row: Row, where: str = "") -> Row:
    """Return the row if it fits the format.

    Raises:
        ShardError: it does not fit.
    """
    broken = _broken_rule(row)
    if broken:
        raise ShardError(
            f"a language row {broken}",
            where=", ".join(part for part in (where, f"timestamp {row.timestamp!r}") if part),
            got=repr(row),
            hint='nothing was written; `annotator query "SELECT * FROM rows"` shows what the log has',
        )
    return row


def shard_digest(episodes: Sequence[EpisodeLanguage], *, exact: bool) -> Digest:
    """Digest the two columns of a shard, episode by episode.

    `exact` is False where the columns have other Arrow types than ours, or null lists: such a shard is not up to date.
    """
    form = b"exact" if exact else b"foreign"
    digests: list[bytes] = []
    for episode in episodes:
        # `digest_struct` without its search for NaN in Python: decoding refuses the null that NaN is encoded as.
        canonical = _encoder.encode(_decoder.decode(_encoder.encode(episode)))
        digests.append(digest_parts(EpisodeLanguage.tag_v, [canonical]).encode())
    return digest_parts("language.v1", [form, *digests])


def _broken_rule(row: Row) -> str:
    """Return what is wrong with a row, or an empty string."""
    try:
        persistent = column_for_style(row.style) == PERSISTENT
    except ValueError as cause:
        return f"has an {cause}"
    is_speech, has_camera = row.style is None, names_camera(row.style)
    texts = "".join((row.role, row.content or "", row.camera or "", *(row.tool_calls or ())))
    faults = (
        (not math.isfinite(row.timestamp), "has a timestamp that is not a number"),
        (row.content is None and not row.tool_calls, "has neither content nor tool_calls"),
        (
            is_speech and (row.content is not None or not row.tool_calls),
            "has no style, so it must have tool_calls and no content",
        ),
        (persistent and row.tool_calls is not None, "is persistent and has tool_calls"),
        (has_camera and not row.camera, f"of style {row.style!r} has no camera"),
        (not has_camera and row.camera is not None, f"of style {row.style!r} has a camera"),
    )
    for is_broken, fault in faults:
        if is_broken:
            return fault
    try:
        texts.encode()
        for call in row.tool_calls or ():
            msgspec.json.decode(call, type=dict[str, msgspec.Raw])
    except UnicodeEncodeError:
        return "has text that is not Unicode (a lone surrogate)"
    except msgspec.DecodeError:  # also of a wrong type: ValidationError is one
        return "has a tool call that is not a JSON object"
    return ""
