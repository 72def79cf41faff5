"""The lock pins what the rows were made from; a change of it, of a prompt or of the vocabulary is told apart."""

import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from annotator.cli.main import main
from annotator.config.settings import SyncSettings, VlmSettings
from annotator.dataset.metadata import open_dataset
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.modules.vocabulary.file import FILE as VOCABULARY
from annotator.modules.vocabulary.file import write_vocabulary
from annotator.prompting.loader import eject, load_prompts
from annotator.provenance.lock import (
    FILE,
    Lock,
    compute_lock,
    lock_digest,
    read_lock,
    read_sound_lock,
    render_lock,
    write_lock,
)
from annotator.provenance.publish import CARD, PublishedFrom, publish
from annotator.provenance.setups import AskedCall, OtherSetup, PinnedModel, PinnedSetup, SetupCounts
from annotator.verify.run import verify_dataset
from annotator.vlm.registry import model_of
from annotator_store.digests import digest_struct
from annotator_store.errors import StoreError
from annotator_store.keys import Model
from annotator_store.log.events import CallAnswered, RunFinished, utc_now
from annotator_store.log.log import Log
from annotator_store.verify.findings import Finding, VerifyReport
from tests.datasets import Recording, shard_path, write_dataset
from tests.store import facts

SHARDS = (shard_path(0), shard_path(1))
SETTINGS = SyncSettings(vlm=VlmSettings(backend="signals"))
SIGNALS = ("--vlm.backend", "signals")
WORDS = Vocabulary(subtasks=("reach",), memories=())


BASIS = PublishedFrom(dataset="tiny", shards=SHARDS)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny dataset that `sync` annotated, with its log and its lock; nobody changes it."""
    root = write_dataset(tmp_path_factory.mktemp("lock") / "tiny", [Recording(n) for n in (1, 2, 3)], cameras=())
    assert main(["sync", str(root), "--vlm.backend", "signals"]) == 0
    return root


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "tiny"))


def verify(root: Path, **options: Any) -> VerifyReport:
    return verify_dataset(open_dataset(root), root / ".annotator", **options)


def only(report: VerifyReport) -> Finding:
    assert len(report.findings) == 1, report.findings
    return report.findings[0]


def computed(root: Path, basis: PublishedFrom = BASIS) -> Lock:
    with Log.open(root / ".annotator") as log:
        return compute_lock(log, basis.dataset, basis.shards)[0]


def stored(root: Path) -> Lock:
    lock = read_lock(root / FILE)
    assert lock is not None
    return lock


def forge(root: Path, **changes: Any) -> None:
    """Write a lock that says something else, and digests to what it says."""
    lock = msgspec.structs.replace(stored(root), **changes)
    write_lock(root / FILE, msgspec.structs.replace(lock, digest=lock_digest(lock)))


def test_a_lock_names_all_that_the_rows_were_made_from_and_nothing_of_the_machine(root: Path) -> None:
    lock = stored(root)
    assert lock.seed == 1729
    assert lock.model is not None
    assert lock.model.model_id == "signals.v1"
    assert (lock.settings, lock.others, lock.vocabulary) == ({}, (), None)
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
    before = computed(root)
    with Log.open(root / ".annotator") as log:
        log.record(facts.finished(5)).result()
    assert computed(root) == before
    other = write_dataset(tmp_path / "elsewhere" / "tiny", [Recording(n) for n in (1, 2, 3)], cameras=())
    assert main(["sync", str(other), "--vlm.backend", "signals"]) == 0
    assert computed(other) == before


def test_fewer_shards_are_another_lock(root: Path) -> None:
    assert computed(root, PublishedFrom(dataset="tiny", shards=SHARDS[:1])) != computed(root)


def test_the_log_digest_moves_with_a_reply_and_with_a_row(root: Path) -> None:
    with Log.open(root / ".annotator") as log:
        lock, rows = compute_lock(log, "tiny", SHARDS)
        (_, written), *_ = log.shards_written()
        annotation = log.annotation(next(iter((written.made_of[0].sources or {}).values())))
        answer = log.answers(annotation.calls[:1])[0]
        earlier = msgspec.structs.replace(answer, reply=answer.reply + " ", recorded_at=facts.NOON)
        log.record(earlier).result()
        assert isinstance(earlier, CallAnswered)
        other, same_rows = compute_lock(log, "tiny", SHARDS)
    assert lock.log != other.log
    assert msgspec.structs.replace(lock, log=other.log, digest=other.digest) == other
    assert rows == same_rows


def test_a_lock_is_written_only_when_it_differs_and_leaves_nothing_behind(tmp_path: Path, root: Path) -> None:
    lock, path = computed(root), tmp_path / "lock.json"
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
        publish(root, log, BASIS)
        with monkeypatch.context() as watched:
            watched.setattr(Log, "annotations", None)
            watched.setattr(Log, "answers", None)
            assert not publish(root, log, BASIS)
        assert publish(root, log, PublishedFrom(dataset="tiny", shards=SHARDS[:1]))
        assert publish(root, log, BASIS)
        (root / CARD).unlink()
        assert publish(root, log, BASIS)
        assert (root / CARD).is_file()


def test_a_file_that_is_no_lock_is_refused_with_its_place(tmp_path: Path) -> None:
    assert read_lock(tmp_path / "none.json") is None
    (tmp_path / "lock.json").write_text('{"seed": 1}')
    with pytest.raises(StoreError, match=r"lock\.json"):
        read_lock(tmp_path / "lock.json")


def test_a_lock_is_sound_while_it_matches_its_own_digest(root: Path) -> None:
    path = root / FILE
    assert read_sound_lock(path) == stored(root)
    path.write_bytes(path.read_bytes().replace(b"1729", b"1730"))
    assert read_sound_lock(path) is None
    path.write_bytes(b"{}")
    assert read_sound_lock(path) is None
    path.unlink()
    assert read_sound_lock(path) is None


def test_reading_back_gives_the_same_lock_and_the_same_digest(root: Path) -> None:
    model = PinnedModel.of(Model(model_id="m", revision="r", temperature=0, chat_template_kwargs={"b": 1, "a": [True]}))
    assert model.settings["temperature"] == 0.0
    lock = msgspec.structs.replace(computed(root), model=model)
    lock = msgspec.structs.replace(lock, digest=lock_digest(lock))
    again = msgspec.json.decode(render_lock(lock), type=Lock)
    assert again == lock
    assert lock_digest(again) == lock.digest
    assert PinnedModel.of(Model(model_id="m")) != lock.model


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


def sync(root: Path, *flags: object, status: int = 0) -> None:
    assert main(["sync", str(root), *map(str, flags)]) == status


def own_prompts(folder: Path, text: str = "Be brief.") -> Path:
    """A folder with one prompt that is other than the shipped one."""
    folder.mkdir()
    shipped = (Path(__file__).parents[2] / "prompts" / "plan_segment.md").read_text(encoding="utf-8")
    (folder / "plan_segment.md").write_text(f"{shipped.rstrip()}\n{text}\n", encoding="utf-8")
    return folder


def test_own_prompts_are_looked_for_where_the_run_found_them_from_wherever_it_is_verified(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = own_prompts(tmp_path / "own")
    monkeypatch.chdir(tmp_path)
    sync(root, *SIGNALS, "--prompts", "own")
    monkeypatch.chdir(root)
    assert verify(root).findings == []
    assert verify(root).notes == []
    sync(root, *SIGNALS, "--plan.enabled=false", "--interjections.enabled=false")
    assert verify(root).findings == []  # a run without own prompts made none of these rows
    path = folder / "plan_segment.md"
    path.write_text(path.read_text() + "\nBe briefer.\n")
    assert (only(verify(root)).kind, only(verify(root)).where) == ("prompt", f"prompts/{path.name}")
    sync(root, *SIGNALS, "--prompts", own_prompts(tmp_path / "other"))
    shutil.rmtree(folder)
    shutil.rmtree(tmp_path / "other")
    report = verify(root)
    assert report.findings == []
    assert f"own prompts at {tmp_path / 'other'} not found" in report.notes[0]


def test_prompts_of_another_datasets_runs_are_no_matter(root: Path, tmp_path: Path) -> None:
    run = facts.finished(0)
    assert isinstance(run, RunFinished)
    arguments = {"prompts": str(own_prompts(tmp_path / "own"))}
    with Log.open(root / ".annotator") as log:
        other = msgspec.structs.replace(run, dataset="bowls", arguments=arguments, recorded_at=utc_now())
        log.record(other).result()
        log.record(msgspec.structs.replace(other, arguments={"prompts": str(tmp_path / "gone")})).result()
    assert verify(root).findings == []
    assert verify(root).notes == []


def test_a_vocabulary_that_the_rows_were_not_held_to_is_no_matter(root: Path) -> None:
    write_vocabulary(root / VOCABULARY, WORDS)
    assert verify(root).findings == []  # the rows were worded freely


def test_a_lock_of_another_model_than_any_run_had_is_named(root: Path) -> None:
    forge(root, model=PinnedModel.of(Model(model_id="other")))
    found = verify(root).findings
    assert {finding.kind for finding in found} == {"lock"}
    assert all("model" in finding.where for finding in found)


def test_no_lock_is_noted_and_no_fault(root: Path) -> None:
    (root / FILE).unlink()
    report = verify(root)
    assert report.findings == []
    assert "annotations.lock.json" in report.notes[0]


def test_a_log_without_annotations_still_gives_a_lock(tmp_path: Path) -> None:
    with Log.open(tmp_path) as log:
        lock, rows = compute_lock(log, "tiny", SHARDS)
    assert (lock.seed, lock.model, lock.prompts, lock.modules, lock.shards) == (None, None, {}, {}, {})
    assert rows == {}


@pytest.mark.parametrize(
    "flags",
    [
        ("--vlm.backend", "scripted", "--plan.enabled=false", "--interjections.enabled=false", "--vqa.enabled=false"),
        ("--seed", "8", *SIGNALS, "--plan.enabled=false", "--interjections.enabled=false"),
    ],
)
def test_a_run_that_changes_no_row_changes_neither_lock_nor_card(root: Path, flags: tuple[str, ...]) -> None:
    before = {name: (root / name).read_bytes() for name in (FILE, CARD)}
    sync(root, *flags)
    assert {name: (root / name).read_bytes() for name in before} == before
    sync(root, *flags, "--locked")
    assert verify(root).findings == []


def test_a_run_whose_every_call_fails_changes_neither_lock_nor_card(root: Path) -> None:
    before = {name: (root / name).read_bytes() for name in (FILE, CARD)}
    sync(root, "--offline", "--vlm.model_id", "other", "--vocabulary.enabled=false", status=1)
    assert {name: (root / name).read_bytes() for name in before} == before


def test_episodes_made_with_another_seed_or_prompt_are_listed_with_their_number(root: Path, tmp_path: Path) -> None:
    before = stored(root)
    sync(root, *SIGNALS, "--seed", "7", "--only_episodes", "0")
    lock = stored(root)
    assert (lock.seed, lock.prompts, lock.settings) == (before.seed, before.prompts, {})
    assert [(setup.module, setup.episodes, setup.made.seed) for setup in lock.others] == [
        ("interjections", 1, 7),
        ("plan", 1, 7),
    ]
    assert verify(root).findings == []
    sync(root, *SIGNALS, "--prompts", own_prompts(tmp_path / "own"), "--only_episodes", "0,2")
    lock, own = stored(root), load_prompts(tmp_path / "own")["plan.segment"].digest
    # "plan" now has the own prompt in most of its three episodes, so that leads.
    assert lock.prompts["plan.segment"] == own
    (other,) = [setup for setup in lock.others if setup.module == "plan"]
    assert (other.episodes, other.made.prompts) == (
        1,
        {step: digest for step, digest in before.prompts.items() if not step.startswith("interjections")},
    )
    assert verify(root).findings == []
    sync(root, *SIGNALS)
    assert stored(root) == before
    sync(root, *SIGNALS, "--locked")


def test_settings_that_are_not_the_defaults_are_pinned_by_their_module(root: Path) -> None:
    sync(root, *SIGNALS, "--plan.min_subtask_seconds", "0.5", "--vlm.client_concurrency", "3")
    assert stored(root).settings == {"plan": {"plan.min_subtask_seconds": 0.5}}
    sync(root, *SIGNALS, "--plan.min_subtask_seconds", "0.5", "--locked")
    assert verify(root).findings == []


@pytest.mark.parametrize("field", ["seed", "vocabulary", "prompts", "modules", "settings", "others"])
def test_a_forged_lock_that_digests_to_what_it_says_is_found_out(root: Path, field: str) -> None:
    other = PinnedSetup(seed=3, model=None, prompts={}, vocabulary=None, version=None, settings={})
    wrong: dict[str, Any] = {
        "seed": 3, "vocabulary": WORDS.digest, "prompts": {}, "modules": {"plan": 9, "interjections": 1},
        "settings": {"plan": {"plan.view": "video"}}, "others": (OtherSetup(module="plan", episodes=1, made=other),),
    }  # fmt: skip
    forge(root, **{field: wrong[field]})
    found = verify(root).findings
    assert {finding.kind for finding in found} == {"lock"}
    assert all(field in finding.where for finding in found)


def test_of_annotations_from_before_setups_were_noted_the_calls_tell_seed_and_model(root: Path) -> None:
    counts = SetupCounts()
    with Log.open(root / ".annotator") as log:
        (_, written), *_ = log.shards_written()
        event = log.annotation((written.made_of[0].sources or {})["plan"])
        (answer,) = log.answers(event.calls[:1])
        described = log.models([answer.model])
    counts.add(msgspec.structs.replace(event, setup=None))
    asked = {answer.key: AskedCall(answer.step, 42, answer.model)}
    assert counts.models(asked) == {answer.model}
    (setup,) = counts.list_setups(asked, described)
    assert (setup.made.seed, setup.made.model, setup.made.version) == (42, PinnedModel.of(model_of(SETTINGS.vlm)), None)
    assert counts.list_setups({}, {})[0].made.seed is None


def test_the_prompt_that_found_the_vocabulary_is_pinned_until_a_person_edits_it(tmp_path: Path) -> None:
    root = write_dataset(tmp_path / "tiny", [Recording(n, frames=30) for n in (1, 2)], cameras=("top",))
    flags = ("--vlm.backend", "scripted", "--vqa.enabled=false")
    sync(root, *flags)
    digest = load_prompts()["vocabulary.discover"].digest
    assert stored(root).prompts["vocabulary.discover"] == digest
    assert stored(root).modules["vocabulary"] == 1
    assert f"| vocabulary.discover | 1729 | `{digest}` |" in (root / CARD).read_text()
    assert verify(root).findings == []
    words = json.loads((root / VOCABULARY).read_text())
    (root / VOCABULARY).write_text(json.dumps(words | {"subtasks": ["take the cup"]}))
    assert [finding.kind for finding in verify(root).findings] == ["vocabulary"]
    sync(root, *flags)
    assert "vocabulary.discover" not in stored(root).prompts
    assert verify(root).findings == []


def test_a_dataset_that_moved_away_from_a_log_that_others_share_is_known_by_its_shards(tmp_path: Path) -> None:
    store = tmp_path / "log"
    flags = (*SIGNALS, "--store", store)
    for name, seeds in {"cups": (1, 2), "bowls": (3, 4)}.items():  # told apart by how long they are
        sync(write_dataset(tmp_path / name, [Recording(n, frames=20 * seeds[0]) for n in seeds], cameras=()), *flags)
    moved = (tmp_path / "cups").rename(tmp_path / "mugs")
    lock = stored(moved)
    for forget in (False, True):
        if forget:
            (moved / FILE).unlink()
        assert verify_dataset(open_dataset(moved), store).findings == []
        assert main(["export", str(moved), "--store", str(store), "--staging", str(tmp_path / f"out{forget}")]) == 0
        sync(moved, *flags, *(() if forget else ("--locked",)))
        assert stored(moved) == lock
    with Log.open(store) as log:
        assert {event.dataset for _, event in log.shards_written()} == {str(tmp_path / n) for n in ("cups", "bowls")}
    stranger = write_dataset(tmp_path / "stranger", [Recording(9)], cameras=())
    assert only(verify_dataset(open_dataset(stranger), store)).found == "unknown dataset"
    copied = Path(shutil.copytree(tmp_path / "bowls", tmp_path / "copied"))
    sync(copied, *flags)  # its original still stands where it was, so this is another
    with Log.open(store) as log:
        assert str(copied) in {event.dataset for _, event in log.shards_written()}
