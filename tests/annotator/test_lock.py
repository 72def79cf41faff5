"""The lock pins what the rows were made from; a change of it, of a prompt or of the vocabulary is told apart."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from annotator.cli import main
from annotator.dataset import open_dataset
from annotator.lock import FILE, Lock, digest_of, lock_of, pinned, read_lock, render_lock, take_stock, write_lock
from annotator.models import model_of
from annotator.prompts import eject, load_prompts
from annotator.publish import CARD, Basis, lock_now, publish
from annotator.settings import SyncSettings, VlmSettings
from annotator.verify import verify_dataset
from annotator.vocabulary import Vocabulary
from annotator.vocabulary_file import FILE as VOCABULARY
from annotator.vocabulary_file import write_vocabulary
from store.audit import Audit, Finding
from store.digest import digest_struct
from store.errors import StoreError
from store.events import CallAnswered, RunFinished, utc_now
from store.keys import Model
from store.log import Log
from tests.datasets import Recording, shard_path, write_dataset
from tests.store import facts

SHARDS = (shard_path(0), shard_path(1))
SETTINGS = SyncSettings(vlm=VlmSettings(backend="signals"))
WORDS = Vocabulary(subtasks=("reach",), memories=())


def basis(**changes: Any) -> Basis:
    fields: dict[str, Any] = {
        "dataset": "tiny",
        "shards": SHARDS,
        "seed": SETTINGS.seed,
        "model": model_of(SETTINGS.vlm),
        "prompts": load_prompts(),
        "vocabulary": None,
    }
    return Basis(**fields | changes)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset that `sync` annotated, with its log and its lock; nobody changes it."""
    root = write_dataset(tmp_path_factory.mktemp("lock") / "tiny", [Recording(n) for n in (1, 2, 3)], cameras=())
    assert main(["sync", str(root), "--vlm.backend", "signals"]) == 0
    with Log.open(root / ".annotator") as log:
        publish(root, log, basis())
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "tiny"))


def verify(root: Path, **options: Any) -> Audit:
    return verify_dataset(open_dataset(root), root / ".annotator", **options)


def only(audit: Audit) -> Finding:
    assert len(audit.findings) == 1, audit.findings
    return audit.findings[0]


def made(root: Path, **changes: Any) -> Lock:
    with Log.open(root / ".annotator") as log:
        return lock_now(log, basis(**changes))[0]


def test_a_lock_names_all_that_the_rows_were_made_from_and_nothing_of_the_machine(root: Path) -> None:
    lock = read_lock(root / FILE)
    assert lock is not None
    assert lock.seed == 1729
    assert lock.model.model_id == "signals.v1"
    assert lock.model.digest == digest_struct(model_of(SETTINGS.vlm))
    assert set(lock.shards) == set(SHARDS)
    assert {"plan", "interjections"} == set(lock.modules)
    assert {"system", "retry", "plan.segment"} <= set(lock.prompts)
    assert all(lock.prompts[step] == load_prompts()[step].digest for step in lock.prompts)
    assert not [step for step in lock.prompts if step.startswith("vqa")]
    text = (root / FILE).read_text()
    assert str(root.parent) not in text
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True, ensure_ascii=False) + "\n"


def test_a_run_that_changes_nothing_leaves_the_lock_and_another_log_of_the_same_answers_gives_the_same(
    root: Path, tmp_path: Path
) -> None:
    before = made(root)
    with Log.open(root / ".annotator") as log:
        log.record(facts.finished(5)).result()
    assert made(root) == before
    other = write_dataset(tmp_path / "elsewhere" / "tiny", [Recording(n) for n in (1, 2, 3)], cameras=())
    assert main(["sync", str(other), "--vlm.backend", "signals"]) == 0
    assert made(other) == before


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 2},
        {"model": Model(model_id="other")},
        {"model": Model(model_id="signals.v1", temperature=0.5)},
        {"vocabulary": WORDS.digest},
        {"shards": SHARDS[:1]},
    ],
)
def test_what_a_run_works_with_is_pinned(root: Path, changes: dict[str, Any]) -> None:
    assert made(root, **changes) != made(root)


def test_the_log_digest_moves_with_a_reply_and_with_a_row(root: Path) -> None:
    with Log.open(root / ".annotator") as log:
        stock = take_stock(log, "tiny", SHARDS)
        (_, written), *_ = log.shards_written()
        annotation = log.annotation(next(iter((written.made_of[0].sources or {}).values())))
        answer = log.answers(annotation.calls[:1])[0]
        earlier = msgspec.structs.replace(answer, reply=answer.reply + " ", recorded_at=facts.NOON)
        log.record(earlier).result()
        assert isinstance(earlier, CallAnswered)
        other = take_stock(log, "tiny", SHARDS)
    assert stock.log != other.log
    assert msgspec.structs.replace(stock, log=other.log) == other


def test_a_lock_is_written_only_when_it_differs_and_leaves_nothing_behind(tmp_path: Path, root: Path) -> None:
    lock, path = made(root), tmp_path / "lock.json"
    assert write_lock(path, lock)
    stamp = path.stat().st_mtime_ns
    assert not write_lock(path, lock)
    assert path.stat().st_mtime_ns == stamp
    assert write_lock(path, msgspec.structs.replace(lock, seed=3))
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["lock.json"]


def test_publishing_again_reads_no_annotation_until_something_changed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Log.open(root / ".annotator") as log:
        publish(root, log, basis())
        with monkeypatch.context() as watched:
            watched.setattr(Log, "annotations", None)
            watched.setattr(Log, "answers", None)
            assert not publish(root, log, basis())
        assert publish(root, log, basis(seed=5))
        assert publish(root, log, basis())
        (root / CARD).unlink()
        assert publish(root, log, basis())
        assert (root / CARD).is_file()


def test_a_lock_that_is_none_is_refused_with_its_place(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "none.json") is None
    (tmp_path / "lock.json").write_text('{"seed": 1}')
    with pytest.raises(StoreError, match=r"lock\.json"):
        read_lock(tmp_path / "lock.json")


def test_reading_back_gives_the_same_lock_and_the_same_digest(root: Path) -> None:
    lock = made(
        root, model=Model(model_id="m", revision="r", temperature=0, chat_template_kwargs={"b": 1, "a": [True]})
    )
    assert lock.model.settings["temperature"] == 0.0
    again = msgspec.json.decode(render_lock(lock), type=Lock)
    assert again == lock
    assert digest_of(again) == lock.digest
    assert pinned(Model(model_id="m")) != lock.model


@pytest.mark.parametrize("start", range(0, 40, 5))
def test_any_flipped_byte_of_the_lock_is_named_as_the_locks_and_nothing_else_is(root: Path, start: int) -> None:
    content = (root / FILE).read_bytes()
    at = start * len(content) // 40 + 1
    (root / FILE).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    finding = only(verify(root))
    assert finding.kind == "lock"
    assert finding.where.startswith(f"meta/annotations.lock.json, line {content[:at].count(10) + 1}"), finding


@pytest.mark.parametrize(
    ("field", "wrong"),
    [("seed", 1), ("log", "0" * 32), ("vocabulary", "1" * 32), ("shards", SHARDS[0]), ("prompts", "plan.segment")],
)
def test_a_lock_that_someone_wrote_otherwise_is_named_with_its_field(root: Path, field: str, wrong: Any) -> None:
    lock = json.loads((root / FILE).read_text())
    if field in ("shards", "prompts"):
        lock[field][wrong] = "2" * 32
    else:
        lock[field] = wrong
    (root / FILE).write_text(json.dumps(lock, indent=2, sort_keys=True) + "\n")
    finding = only(verify(root))
    assert finding.kind == "lock"
    assert field in finding.where


def test_a_prompt_that_changed_is_named_by_its_file(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    eject(folder)
    assert verify(root, prompts=folder).findings == []
    path = folder / "plan_segment.md"
    path.write_text(path.read_text() + "\nBe brief.\n")
    finding = only(verify(root, prompts=folder))
    assert (finding.kind, finding.where) == ("prompt", str(path))
    assert finding.expected == f"plan.segment with the digest {load_prompts()['plan.segment'].digest}"
    assert finding.found == load_prompts(folder)["plan.segment"].digest


def test_a_comment_in_a_prompt_is_no_change_and_a_broken_prompt_is_named(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    eject(folder)
    path = folder / "plan_segment.md"
    text = path.read_text()
    path.write_text(text + "{# a remark #}")
    assert verify(root, prompts=folder).findings == []
    path.write_text(text.replace("+++", "++", 1))
    assert (only(verify(root, prompts=folder)).kind, only(verify(root, prompts=folder)).where) == ("prompt", str(path))


def test_a_prompt_that_the_rows_do_not_come_from_may_change(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    eject(folder)
    unused = next(path for path in sorted(folder.glob("vqa_*.md")))
    unused.write_text(unused.read_text() + "\nBe brief.\n")
    assert verify(root, prompts=folder).findings == []


def test_the_folder_of_prompts_that_the_last_run_had_is_taken_while_it_is_there(root: Path, tmp_path: Path) -> None:
    folder = tmp_path / "prompts"
    eject(folder)
    (folder / "plan_segment.md").write_text((folder / "plan_segment.md").read_text() + "\nBe brief.\n")
    run = facts.finished(0)
    assert isinstance(run, RunFinished)
    arguments = {"prompts": str(folder), "seed": 1729}
    with Log.open(root / ".annotator") as log:
        log.record(msgspec.structs.replace(run, arguments=arguments, recorded_at=utc_now())).result()
    assert only(verify(root)).kind == "prompt"
    shutil.rmtree(folder)
    assert verify(root).findings == []


def test_a_vocabulary_that_changed_is_named(root: Path) -> None:
    write_vocabulary(root / VOCABULARY, WORDS)
    assert verify(root).findings == []  # the rows were worded freely
    (root / FILE).unlink()
    write_lock(root / FILE, made(root, vocabulary=WORDS.digest))
    assert verify(root).findings == []
    text = (root / VOCABULARY).read_text()
    (root / VOCABULARY).write_text(text.replace("reach", "reaci"))
    finding = only(verify(root))
    assert (finding.kind, finding.where, finding.expected) == ("vocabulary", str(VOCABULARY), WORDS.digest)
    (root / VOCABULARY).write_text(text[:-4])
    assert only(verify(root)).kind == "vocabulary"


def test_a_lock_of_another_model_than_any_run_had_is_named(root: Path) -> None:
    write_lock(root / FILE, made(root, model=Model(model_id="other")))
    found = verify(root).findings
    assert {finding.kind for finding in found} == {"lock"}
    assert all("model" in finding.where for finding in found)


def test_no_lock_is_noted_and_no_fault(root: Path) -> None:
    (root / FILE).unlink()
    audit = verify(root)
    assert audit.findings == []
    assert "annotations.lock.json" in audit.notes[0]


def test_a_stock_of_nothing_still_makes_a_lock() -> None:
    from annotator.lock import Stocktaking

    stock = Stocktaking().stock(lambda _: ())
    lock = lock_of(stock, seed=1, model=Model(model_id="m"), prompts={}, vocabulary=None)
    assert (lock.prompts, lock.modules, lock.shards) == ({}, {}, {})
