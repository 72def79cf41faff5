"""The vocabulary: snapping to its entries, and what an edit of it changes."""

import re
import unicodedata

import duckdb
import msgspec
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from annotator.modules.vocabulary.entries import (
    LEAST_OVERLAP,
    NearestEntry,
    Vocabulary,
    distinct,
    distinguishing_word,
    edit_event,
    nearest_entry,
)
from annotator.modules.vocabulary.matching import EntryMatch, match_entry
from annotator.prompting.normalize import sameness, tidy_label, tidy_memory
from annotator_store.digests import digest_parts
from annotator_store.log.events import VocabularyDiscovered, decode_event, encode_event, utc_now
from annotator_store.validation.rules import TABLES

ENTRIES = ("pick up the cup", "place the cup on the tray", "open the lid")
WORDS = ("pick", "Up", "the", "cup", "ÇUP", "straße", "杯子", "2", "!", "  ", "\n", "")
texts = (
    st.text(max_size=20)
    | st.text("\0\ud800\x85\u2028\u200b. a", max_size=5)
    | st.lists(st.sampled_from(WORDS), max_size=5).map(" ".join)
)


def vocabulary(*subtasks: str, memories: tuple[str, ...] = ("I hold the cup.",)) -> Vocabulary:
    return Vocabulary(subtasks=subtasks, memories=memories)


def found(entries: Vocabulary) -> VocabularyDiscovered:
    return VocabularyDiscovered(
        recorded_at=utc_now(),
        run_id="run-1",
        dataset="cups",
        recipe=digest_parts("recipe", []),
        vocabulary=entries.digest,
        call=digest_parts("call", []),
        episodes=(),
        subtasks=entries.subtasks,
        memories=entries.memories,
    )


@given(texts, st.lists(texts, min_size=1, max_size=6))
def test_any_text_snaps_to_one_of_the_entries_the_same_one_every_time(text: str, entries: list[str]) -> None:
    snapped = nearest_entry(text, entries)
    assert snapped.entry in entries
    assert 0 <= snapped.overlap <= 1
    assert nearest_entry(text, list(entries)) == snapped


@given(st.lists(texts, min_size=1, max_size=6), st.data())
def test_the_text_of_an_entry_is_that_entry(entries: list[str], data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(entries))
    assert nearest_entry(text, entries) == NearestEntry(text, 1.0)


@given(texts, st.lists(texts, min_size=1, max_size=6), texts)
def test_another_entry_never_makes_the_nearest_one_farther(text: str, entries: list[str], other: str) -> None:
    assert nearest_entry(text, [*entries, other]).overlap >= nearest_entry(text, entries).overlap


@pytest.mark.parametrize(
    ("text", "entry", "overlap"),
    [
        ("Pick up the cup.", "pick up the cup", 1.0),
        ("pick the cup up", "pick up the cup", 1.0),
        ("pick up the red cup", "pick up the cup", 4 / 5),
        ("put the cup on a tray", "place the cup on the tray", 4 / 7),
        ("wave at the camera", "open the lid", 1 / 6),
        ("?!", "pick up the cup", 0.0),
    ],
)
def test_a_paraphrase_snaps_by_the_words_it_shares(text: str, entry: str, overlap: float) -> None:
    assert nearest_entry(text, ENTRIES) == NearestEntry(entry, overlap)
    assert (overlap >= LEAST_OVERLAP) == (text not in {"wave at the camera", "?!"})


HANDS = ("open the left gripper", "close the right gripper", "pick up the red cup", "put the green cup on the tray")


@pytest.mark.parametrize(
    ("text", "entries", "by"),
    [
        ("close the left gripper", HANDS, '"close"'),
        ("open the right gripper", HANDS, '"right"'),
        ("pick up the green cup", HANDS, '"green"'),
        ("close the left gripper", HANDS[:1], '"close"'),
        ("open the right gripper", HANDS[:1], '"right"'),
        ("do not open the drawer", ("open the drawer",), "a negation"),
        ("don\u2019t open the drawer", ("open the drawer",), "a negation"),
        ("put the cup down without the tray", ("put the cup down on the tray",), "a negation"),
        ("open the drawer", ("never open the drawer",), "a negation"),
    ],
)
def test_a_text_that_says_another_thing_in_much_the_same_words_is_told_apart(
    text: str, entries: tuple[str, ...], by: str
) -> None:
    nearest = nearest_entry(text, entries)
    assert nearest.overlap >= LEAST_OVERLAP
    assert distinguishing_word(text, nearest.entry, entries) == by
    assert match_entry(text, entries, tidy_label).text == ""


@pytest.mark.parametrize(
    ("text", "entry"),
    [
        ("pick up cup", "pick up the cup"),
        ("grasp the red cup", "grip the red cup"),
        ("Grip the red cup firmly.", "grip the red cup"),
        ("place a cup on a tray", "place the cup on the tray"),
        ("do not touch the lid!", "do not touch the lid"),
    ],
)
def test_a_true_paraphrase_is_taken_for_its_entry(text: str, entry: str) -> None:
    entries = ("open a lid", "pick up the cup", "grip the red cup", "place the cup on the tray", "do not touch the lid")
    assert match_entry(text, entries, tidy_label) == EntryMatch(entry)


AXES = (("open", "close", "turn"), ("left", "right"), ("red", "blue", "small"))
LABELS = st.tuples(*(st.sampled_from(axis) for axis in AXES)).map(lambda w: f"{w[0]} the {w[1]} hand on the {w[2]} cup")


@given(
    LABELS, st.lists(LABELS, min_size=1, max_size=8, unique=True), st.sampled_from(("", "now ", "do not ", "never "))
)
def test_no_text_is_taken_for_one_that_says_another_action_side_or_thing(
    text: str, entries: list[str], before: str
) -> None:
    """A word that no entry has says nothing of how entries differ: such a text may pass for a free paraphrase."""
    told = match_entry(before + text, entries, tidy_label)
    negated = before in {"do not ", "never "}
    if told.text and told.text != text:
        named = {word for entry in entries for word in entry.split()}
        assert not (set(text.split()) - set(told.text.split())) & named
    assert (told.text == text) == (text in entries and not negated)
    assert not (told.text and negated)


@given(texts, st.lists(texts, min_size=1, max_size=6), st.data())
def test_nothing_tells_an_entry_from_itself(text: str, entries: list[str], data: st.DataObject) -> None:
    own = data.draw(st.sampled_from(entries))
    assert distinguishing_word(own, own, [*entries, text]) == ""


def test_of_two_entries_with_the_same_words_the_order_of_the_words_decides() -> None:
    swapped = ("stack the red cup on the blue cup", "stack the blue cup on the red cup")
    assert nearest_entry("put the blue cup on the red cup", swapped).entry == swapped[1]
    assert nearest_entry("put the red cup on the blue cup", swapped).entry == swapped[0]


def test_of_entries_that_are_equally_near_the_first_is_taken() -> None:
    assert nearest_entry("pour", ("open the lid", "close the lid")) == NearestEntry("open the lid", 0.0)


def test_there_must_be_entries_to_snap_to() -> None:
    with pytest.raises(ValueError, match="empty"):
        nearest_entry("pour", ())


@given(texts)
def test_what_is_tidy_stays_as_it_is_and_is_one_visible_line(text: str) -> None:
    for tidy in (tidy_label, tidy_memory):
        once = tidy(text)
        assert tidy(once) == once
        assert once.splitlines() in ([], [once])
        assert not [c for c in once if unicodedata.category(c) in {"Cc", "Cs"}]


def test_a_label_loses_its_full_stop_and_a_milestone_keeps_it() -> None:
    assert tidy_label(" pick  up\nthe cup. ") == "pick up the cup"
    assert tidy_memory(" I hold\tthe  cup. ") == "I hold the cup."


def test_entries_that_say_the_same_or_nothing_are_dropped() -> None:
    assert distinct(["Reach", "", "reach.", "grasp", " . ", "GRASP"]) == ["Reach", "grasp"]


@given(st.lists(texts, max_size=8))
def test_distinct_entries_are_distinct_and_none_is_lost(entries: list[str]) -> None:
    kept = [sameness(entry) for entry in distinct(entries)]
    assert len(set(kept)) == len(kept)
    assert set(kept) == {sameness(entry) for entry in entries} - {""}


@pytest.mark.parametrize("field", msgspec.structs.fields(Vocabulary), ids=lambda field: field.name)
def test_every_list_and_its_order_participate_in_the_digest(field: msgspec.structs.FieldInfo) -> None:
    base = Vocabulary(subtasks=("a", "b"), memories=("a", "b"))
    for changed in (("b", "a"), ("a",), ("a", "b", "c")):
        assert msgspec.structs.replace(base, **{field.name: changed}).digest != base.digest
    assert base.digest == "1449aed88c2a7baedb11d3ce715a0a73"


def test_an_unchanged_vocabulary_is_no_edit() -> None:
    now = vocabulary("reach", "grasp")
    assert edit_event(found(now), now, dataset="cups", run_id="run-2") is None
    again = edit_event(None, now, dataset="cups", run_id="run-2")
    assert again is not None
    assert edit_event(again, now, dataset="cups", run_id="run-3") is None


def test_an_edit_says_what_came_and_what_went() -> None:
    before = vocabulary("reach", "grasp")
    event = edit_event(found(before), vocabulary("grasp", "lift", memories=()), dataset="cups", run_id="run-2")
    assert event is not None
    assert (event.added, event.removed) == (("subtask: lift",), ("subtask: reach", "memory: I hold the cup."))
    assert (event.subtasks, event.memories) == (("grasp", "lift"), ())
    assert (event.before, event.vocabulary) == (before.digest, vocabulary("grasp", "lift", memories=()).digest)
    assert (event.dataset, event.run_id) == ("cups", "run-2")
    assert decode_event(encode_event(event)) == event


def test_the_same_text_as_subtask_and_as_memory_are_two_entries() -> None:
    event = edit_event(found(vocabulary("reach", memories=("wait",))), vocabulary("reach", "wait", memories=()),
                   dataset="cups", run_id="run-2")  # fmt: skip
    assert event is not None
    assert (event.added, event.removed) == (("subtask: wait",), ("memory: wait",))


def test_another_order_is_an_edit_that_adds_and_removes_nothing() -> None:
    event = edit_event(
        found(vocabulary("reach", "grasp")), vocabulary("grasp", "reach"), dataset="cups", run_id="run-2"
    )
    assert event is not None
    assert (event.added, event.removed) == ((), ())


def test_a_file_that_was_there_before_anything_was_recorded_is_all_new() -> None:
    event = edit_event(None, vocabulary("reach"), dataset="cups", run_id="run-1")
    assert event is not None
    assert (event.before, event.added) == (None, ("subtask: reach", "memory: I hold the cup."))


@given(st.lists(texts.map(tidy_label), unique=True), st.lists(texts.map(tidy_label), unique=True))
def test_what_was_there_less_what_went_and_with_what_came_is_what_there_is(old: list[str], new: list[str]) -> None:
    assume(old != new)
    event = edit_event(found(vocabulary(*old)), vocabulary(*new), dataset="cups", run_id="run-2")
    assert event is not None
    before = {f"subtask: {entry}" for entry in old}
    assert (before - set(event.removed)) | set(event.added) == {f"subtask: {entry}" for entry in new}
    assert set(event.removed) <= before


def test_what_the_rules_call_blank_is_no_text_here_either() -> None:
    """Else one such answer would keep a whole dataset from being written."""
    (macro,) = re.findall(r"CREATE TEMP MACRO is_blank.*?\);\n", TABLES["create_rule_tables"], re.DOTALL)
    letters = pa.table({"letter": [chr(at) for at in range(1, 0x110000) if not 0xD800 <= at < 0xE000]})
    with duckdb.connect() as connection:
        connection.execute(macro)
        connection.register("letters", letters)
        blank = (
            connection.sql("SELECT letter FROM letters WHERE is_blank(letter)").to_arrow_table()["letter"].to_pylist()
        )
    assert {" ", "\u200b", "\u3164", "\ufe0f"} <= set(blank)
    assert [letter for letter in blank if tidy_memory(letter) or tidy_label(f"{letter} ...")] == []
    assert tidy_label("👩\u200d🚀 waves.") == "👩\u200d🚀 waves"
