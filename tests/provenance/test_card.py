"""The dataset card: our section comes and goes with its two comments, and the user's text is never touched."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from annotator.config.settings import VlmSettings
from annotator.prompting.loader import load_prompts
from annotator.provenance.card import BEGIN, END, render_section, setup_flags, update_card
from annotator.provenance.lock import Lock
from annotator.provenance.setups import OtherSetup, PinnedModel, PinnedSetup
from annotator.vlm.registry import model_of
from annotator_store.digests import Digest
from annotator_store.errors import StoreError
from annotator_store.keys import Model

PROMPTS = {"system": Digest("a" * 32), "retry": Digest("b" * 32), "plan.segment": Digest("c" * 32)}
MODEL = PinnedModel.of(Model(model_id="some/model", revision="main"))
LOCK = Lock(
    seed=1729, model=MODEL, prompts=PROMPTS, vocabulary=None, modules={"plan": 2}, settings={}, others=(), shards={},
    log=Digest("e" * 32),
)  # fmt: skip
COUNTS = {"subtask": 12, "plan": 7}


def test_the_section_pairs_every_prompt_with_the_seed_and_counts_rows_by_style() -> None:
    section = render_section(LOCK, COUNTS)
    for step, digest in PROMPTS.items():
        assert f"| {step} | 1729 | `{digest}` |" in section
    assert "| subtask | 12 |" in section
    assert "`some/model` at revision `main`" in section
    assert MODEL.digest in section
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


def shipped(vlm: VlmSettings, **changes: Any) -> Lock:
    """A lock of all modules, worded in a vocabulary, asked with the shipped prompts."""
    modules: dict[str, int | None] = {"plan": 2, "interjections": 1, "vqa": 1, "vocabulary": 1}
    fields: dict[str, Any] = {
        "model": PinnedModel.of(model_of(vlm)),
        "prompts": {"system": load_prompts()["system"].digest},
        "modules": modules,
        "vocabulary": Digest("d" * 32),
    }
    return msgspec.structs.replace(LOCK, **fields | changes)


@pytest.mark.parametrize(
    ("lock", "flags"),
    [
        (shipped(VlmSettings(backend="scripted")), "--vlm.backend scripted"),
        (shipped(VlmSettings(backend="scripted"), seed=7), "--vlm.backend scripted --seed 7"),
        (shipped(VlmSettings()), f"--vlm.model_id {VlmSettings().model_id}"),
        (
            shipped(VlmSettings(model_id="m", temperature=0.5, chat_template_kwargs={"a": True})),
            "--vlm.model_id m --vlm.chat_template_kwargs '{\"a\":true}' --vlm.temperature 0.5",
        ),
        (
            shipped(VlmSettings(backend="signals"), modules={"plan": 2, "interjections": 1}, vocabulary=None),
            "--vlm.backend signals",
        ),
        (
            shipped(VlmSettings(backend="scripted"), modules={"plan": 2}, vocabulary=None),
            "--vlm.backend scripted --interjections.enabled false --vqa.enabled false --vocabulary.enabled false",
        ),
        (
            shipped(VlmSettings(backend="scripted"), settings={"vqa": {"vqa.question_types": ["count", "bbox"]}}),
            "--vlm.backend scripted --vqa.question_types count,bbox",
        ),
        (
            shipped(VlmSettings(backend="scripted"), prompts={"system": Digest("a" * 32)}),
            "--vlm.backend scripted --prompts PROMPTS",
        ),
    ],
)
def test_the_recipe_gives_what_is_not_the_default_and_no_more(lock: Lock, flags: str) -> None:
    assert f"annotator sync . --offline {flags}   #" in render_section(lock, COUNTS)
    assert setup_flags(lock).keys() <= {flag.removeprefix("--") for flag in flags.split() if flag.startswith("--")}
    assert ("PROMPTS" in flags) == ("folder of own prompts" in render_section(lock, COUNTS))


def test_what_was_made_otherwise_is_said_with_what_is_other_and_no_more() -> None:
    lead = msgspec.structs.replace(LOCK, vocabulary=Digest("d" * 32))
    same = PinnedSetup(seed=1729, model=MODEL, prompts=PROMPTS, vocabulary=lead.vocabulary, version=2, settings={})
    twos = Digest("2" * 32)
    changes: dict[str, dict[str, Any]] = {
        f"vocabulary `{'1' * 32}`": {"vocabulary": Digest("1" * 32)},
        "no vocabulary": {"vocabulary": None},
        "settings `--plan.view video`": {"settings": {"plan.view": "video"}},
        "prompts retry, plan.segment": {"prompts": PROMPTS | {"retry": twos, "plan.segment": twos}},
        "version 1": {"version": 1},
    }
    for said, change in changes.items():
        other = OtherSetup(module="plan", episodes=1, made=msgspec.structs.replace(same, **change))
        assert f"- plan: 1 episode: {said}\n" in render_section(msgspec.structs.replace(lead, others=(other,)), COUNTS)


def test_where_episodes_were_held_to_several_vocabularies_the_file_is_not_said_to_be_that_of_most() -> None:
    lead = msgspec.structs.replace(LOCK, vocabulary=Digest("d" * 32))
    made = PinnedSetup(seed=1729, model=MODEL, prompts=PROMPTS, vocabulary=Digest("1" * 32), version=2, settings={})
    mixed = msgspec.structs.replace(lead, others=(OtherSetup(module="plan", episodes=1, made=made),))
    section = render_section(mixed, COUNTS)
    assert f"`meta/canonical_vocabulary.json`, digest `{'d' * 32}`" not in section
    assert f"Vocabulary of most episodes: digest `{'d' * 32}`; `meta/canonical_vocabulary.json` may be" in section


def test_what_was_made_otherwise_is_said_with_its_seed_and_its_prompts() -> None:
    made = PinnedSetup(
        seed=7, model=PinnedModel.of(Model(model_id="other")), prompts={"system": Digest("f" * 32)}, vocabulary=None,
        version=2, settings={},
    )  # fmt: skip
    section = render_section(
        msgspec.structs.replace(LOCK, others=(OtherSetup(module="plan", episodes=3, made=made),)), COUNTS
    )
    assert "- plan: 3 episodes: model `other`" in section
    assert "; seed 7; prompt system\n" in section
    assert f"| system | 1729 | `{'a' * 32}` |" in section
    assert f"| system | 7 | `{'f' * 32}` |" in section
    assert "`others`" not in render_section(LOCK, COUNTS)
