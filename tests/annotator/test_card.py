"""The dataset card: our section comes and goes with its two comments, and the user's text is never touched."""

from pathlib import Path

import msgspec
import pytest

from annotator.card import BEGIN, END, render_section, update_card
from annotator.lock import Lock, Stocktaking, lock_of
from store.digest import Digest
from store.errors import StoreError
from store.keys import Model

PROMPTS = {"system": Digest("a" * 32), "retry": Digest("b" * 32), "plan.segment": Digest("c" * 32)}
LOCK: Lock = msgspec.structs.replace(
    lock_of(
        Stocktaking().stock(lambda _: ()),
        seed=1729,
        model=Model(model_id="some/model", revision="main"),
        prompts={},
        vocabulary=None,
    ),
    prompts=PROMPTS,
)
COUNTS = {"subtask": 12, "plan": 7}


def test_the_section_pairs_every_prompt_with_the_seed_and_counts_rows_by_style() -> None:
    section = render_section(LOCK, COUNTS)
    for step, digest in PROMPTS.items():
        assert f"| {step} | 1729 | `{digest}` |" in section
    assert "| subtask | 12 |" in section
    assert "`some/model` at revision `main`" in section
    assert LOCK.model.digest in section
    assert "annotator verify ." in section
    assert "annotator sync . --offline" in section
    assert "canonical_vocabulary" not in section
    worded = msgspec.structs.replace(LOCK, vocabulary=Digest("d" * 32))
    assert f"`meta/canonical_vocabulary.json`, digest `{'d' * 32}`" in render_section(worded, COUNTS)


def test_a_card_is_made_where_there_is_none_and_then_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    assert update_card(path, LOCK, COUNTS)
    stamp = path.stat().st_mtime_ns
    assert not update_card(path, LOCK, COUNTS)
    assert path.stat().st_mtime_ns == stamp
    assert path.read_bytes() == b"%b\n%b\n%b\n" % (BEGIN, render_section(LOCK, COUNTS).encode(), END)


FRONT = b"---\nlicense: mit\ntags: [robot]\n---\n\n# Cups\n"


@pytest.mark.parametrize(
    "text",
    [
        FRONT,
        FRONT.replace(b"\n", b"\r\n"),
        b"# no newline at the end",
        b"\xef\xbb\xbfwith a mark \xff\xfe and bytes that are no text\n\n",
        b"",
    ],
)
def test_the_users_text_comes_back_byte_for_byte_before_and_after_the_section(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "README.md"
    path.write_bytes(text)
    assert update_card(path, LOCK, COUNTS)
    written = path.read_bytes()
    assert written.startswith(text)
    newline = b"\r\n" if b"\r\n" in text else b"\n"
    assert written.count(newline) == written.count(b"\n")
    path.write_bytes(written + b"After it." + newline)
    assert not update_card(path, LOCK, COUNTS)
    assert update_card(path, msgspec.structs.replace(LOCK, seed=2), COUNTS)
    changed = path.read_bytes()
    assert changed.startswith(text)
    assert changed.endswith(END + newline + b"After it." + newline)
    assert b"| 2 |" in changed
    assert b"1729" not in changed
    assert update_card(path, LOCK, COUNTS)
    assert path.read_bytes() == written + b"After it." + newline


@pytest.mark.parametrize(
    "text",
    [
        BEGIN + b"\nours\n",
        b"ours\n" + END,
        END + b"\n" + BEGIN,
        BEGIN + b"\n" + BEGIN + b"\n" + END,
        BEGIN + b"\n" + END + b"\n" + BEGIN + b"\n" + END,
    ],
)
def test_comments_that_are_no_pair_leave_the_card_alone_with_a_note(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "README.md"
    path.write_bytes(text)
    notes: list[str] = []
    assert not update_card(path, LOCK, COUNTS, notes.append)
    assert path.read_bytes() == text
    (note,) = notes
    assert str(path) in note
    assert "hint:" in note


def test_a_linked_card_is_replaced_and_what_it_was_linked_to_stays(tmp_path: Path) -> None:
    path, other = tmp_path / "README.md", tmp_path / "elsewhere.md"
    other.write_bytes(FRONT)
    path.hardlink_to(other)
    assert update_card(path, LOCK, COUNTS)
    assert other.read_bytes() == FRONT
    assert path.read_bytes().startswith(FRONT)


def test_a_card_that_cannot_be_read_is_a_problem_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "README.md").mkdir()
    with pytest.raises(StoreError, match=r"README\.md"):
        update_card(tmp_path / "README.md", LOCK, COUNTS)
