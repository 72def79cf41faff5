"""The vocabulary's file: written to be edited, read strictly, never half there."""

import json
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotator.errors import VocabularyError
from annotator.modules.vocabulary.entries import Vocabulary, edit_event
from annotator.modules.vocabulary.file import FILE, MOST_ENTRIES, read_vocabulary, write_vocabulary
from annotator_store.atomic_files import LEFTOVER_SUFFIX

CUPS = Vocabulary(subtasks=("grip the cup by its handle", 'say "é" 杯'), memories=("I hold the cup.",))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "meta").mkdir()
    return tmp_path / FILE


def written(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_what_was_written_is_read_and_reads_well(path: Path) -> None:
    assert path.relative_to(path.parents[1]).as_posix() == "meta/canonical_vocabulary.json"
    assert write_vocabulary(path, CUPS)
    assert read_vocabulary(path) == CUPS
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0] == "{"
    assert lines[1].startswith('  "note": "')
    assert lines[2:] == [
        '  "subtasks": [',
        '    "grip the cup by its handle",',
        r'    "say \"é\" 杯"',
        "  ],",
        '  "memory_milestones": [',
        '    "I hold the cup."',
        "  ]",
        "}",
    ]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_there_may_be_no_file(path: Path) -> None:
    assert read_vocabulary(path) is None


def test_a_file_that_says_the_same_is_left_alone(path: Path) -> None:
    body = '{"memories":["I hold the cup."],"subtasks":["grip the cup by its handle.","say \\"é\\"  杯"],"note":"mine"}'
    before = written(path, body).stat().st_mtime_ns
    assert not write_vocabulary(path, CUPS)
    assert (path.read_text(encoding="utf-8"), path.stat().st_mtime_ns) == (body, before)


@pytest.mark.parametrize("there", [b"", b"{", b"\xff", b'{"subtasks": ["reach"], "memories": []}'])
def test_writing_replaces_whatever_says_otherwise(path: Path, there: bytes) -> None:
    written(path, there).chmod(0o640)
    assert write_vocabulary(path, CUPS)
    assert read_vocabulary(path) == CUPS
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_write_that_fails_leaves_what_was_there(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(path, '{"subtasks": ["reach"], "memories": []}')

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(
            VocabularyError, match=r"cannot be written – .*canonical_vocabulary.json – (.|\n)*hint: free"
        ):
            write_vocabulary(path, CUPS)
    assert read_vocabulary(path) == Vocabulary(subtasks=("reach",), memories=())
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_crash_in_mid_write_leaves_a_name_that_is_swept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda _: names.extend(p.name for p in path.parent.iterdir()))  # pyright: ignore
    write_vocabulary(path, CUPS)
    assert names[0].endswith(LEFTOVER_SUFFIX)


def test_a_hand_edit_is_read_without_its_white_space_and_a_label_s_full_stop(path: Path) -> None:
    body = '\ufeff{\r\n "subtasks": [" reach  for the\\tcup. "],\r\n "memories": [" I  reached it. "]\r\n}'
    assert read_vocabulary(written(path, body)) == Vocabulary(
        subtasks=("reach for the cup",), memories=("I reached it.",)
    )


def test_what_lerobot_wrote_is_read_and_what_is_written_lerobot_can_read(path: Path) -> None:
    """Its `Vocabulary.to_json` writes these two lists, and `from_json` looks for them by these names."""
    theirs = {"subtasks": list(CUPS.subtasks), "memory_milestones": list(CUPS.memories)}
    written(path, json.dumps(theirs, indent=2, ensure_ascii=False) + "\n")
    assert read_vocabulary(path) == CUPS
    path.unlink()
    write_vocabulary(path, CUPS)
    ours = json.loads(path.read_bytes())
    assert {name: ours[name] for name in theirs} == theirs


def test_there_may_be_no_milestones(path: Path) -> None:
    found = read_vocabulary(written(path, '{"subtasks": ["reach"], "memories": []}'))
    assert found == Vocabulary(subtasks=("reach",), memories=())


LONG = "a" * 201
MANY = json.dumps([f"step {n}" for n in range(MOST_ENTRIES + 1)])


@pytest.mark.parametrize(
    ("body", "what", "got"),
    [
        ("", "is not JSON", "line 1 column 1"),
        ("{", "is not JSON", "line 1 column 2"),
        ('{\n "subtasks": ["a",],\n "memories": []}', "is not JSON", "line 2"),
        ("{'subtasks': ['a']}", "is not JSON", "line 1 column 2"),
        ("[" * 100_000, "is not JSON", "recursion"),
        (b'{"subtasks": ["\xff"], "memories": []}', "cannot be read", "0xff"),
        ("[]", "another shape", "Expected `object`, got `array`"),
        ("{}", "another shape", "`subtasks`"),
        ('{"subtasks": ["a"]}', "another shape", "`memory_milestones`"),
        ('{"subtasks": ["a"], "memories": [], "memory_milestones": []}', "another shape", "memory_milestones stands"),
        ('{"subtasks": "a", "memories": []}', "another shape", "`$.subtasks`"),
        ('{"subtasks": ["a", 7], "memories": []}', "another shape", "`$.subtasks[1]`"),
        ('{"subtasks": ["a"], "memories": null}', "another shape", "`$.memory_milestones`"),
        ('{"subtasks": ["a"], "memories": [], "labels": []}', "another shape", "`labels`"),
        ('{"subtasks": ["a"], "memories": [], "subtasks": ["b"]}', "another shape", "subtasks stands there twice"),
        ('{"subtasks": [], "memories": ["a"]}', "has no subtasks", "[]"),
        ('{"subtasks": ["a", " \\n"], "memories": []}', "entry is blank – {path}, subtasks, entry 2", "' \\n'"),
        ('{"subtasks": ["a", "."], "memories": []}', "entry is blank – {path}, subtasks, entry 2", "'.'"),
        ('{"subtasks": ["a", "\\u0000\\ud800"], "memories": []}', "entry is blank – {path}, subtasks, entry 2", ""),
        ('{"subtasks": ["a"], "memories": [""]}', "entry is blank – {path}, memory_milestones, entry 1", "''"),
        ('{"subtasks": ["a", "b", "A."], "memories": []}', "entry is there twice – {path}, subtasks, entry 3", "'A.'"),
        (f'{{"subtasks": ["{LONG}"], "memories": []}}', "entry is too long – {path}, subtasks, entry 1", "201"),
        (f'{{"subtasks": {MANY}, "memories": []}}', "is too long – {path}, subtasks", "257"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_file_that_cannot_be_meant_is_refused_with_its_place_and_a_hint(
    path: Path, body: str | bytes, what: str, got: str
) -> None:
    with pytest.raises(VocabularyError) as caught:
        read_vocabulary(written(path, body))
    assert what.format(path=path) in str(caught.value)
    assert str(path) in caught.value.where
    assert got in caught.value.got
    assert caught.value.hint


def test_a_file_that_is_not_json_says_how_to_go_on_without_it(path: Path) -> None:
    with pytest.raises(VocabularyError, match=r"hint: commas (.|\n)*delete it(.|\n)*--vocabulary.enabled=false"):
        read_vocabulary(written(path, "subtasks: [reach]"))


def test_a_file_that_the_disk_refuses_is_one_message(path: Path) -> None:
    path.mkdir()
    with pytest.raises(VocabularyError, match="cannot be read"):
        read_vocabulary(path)
    with pytest.raises(VocabularyError, match="cannot be written"):
        write_vocabulary(path, CUPS)


def test_the_doubled_entry_is_named_with_the_one_before_it(path: Path) -> None:
    with pytest.raises(VocabularyError) as caught:
        read_vocabulary(written(path, '{"subtasks": ["lift", "reach", "REACH"], "memories": []}'))
    assert "entry 2" in caught.value.hint


lists = st.lists(st.text(max_size=12), max_size=5)


@settings(max_examples=40, deadline=None)
@given(lists, lists)
def test_any_lists_are_read_or_refused_and_what_is_read_is_written_back_unchanged(
    tmp_path_factory: pytest.TempPathFactory, subtasks: list[str], memories: list[str]
) -> None:
    path = tmp_path_factory.mktemp("meta") / "canonical_vocabulary.json"
    path.write_text(json.dumps({"subtasks": subtasks, "memories": memories}), encoding="utf-8")
    try:
        found = read_vocabulary(path)
    except VocabularyError:
        return
    assert found is not None
    path.unlink()
    write_vocabulary(path, found)
    again = read_vocabulary(path)
    assert again is not None
    assert again == found
    recorded = edit_event(None, found, dataset="d", run_id="r")
    assert edit_event(recorded, again, dataset="d", run_id="r") is None
