"""`annotator validate`: what a person sees of a dataset whose rows break rules, and what a script gets."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from syrupy.assertion import SnapshotAssertion

from annotator.cli.main import main
from annotator.dataset.metadata import open_dataset
from annotator.modules.vocabulary.entries import Vocabulary
from annotator.pipeline.validation_gate import future_rule_context
from annotator.provenance.lock import Lock, write_lock
from annotator.provenance.setups import PinnedModel
from annotator_store.digests import Digest
from annotator_store.log.events import AnnotatedRow, CameraSeen, EpisodeAnnotated, EpisodeSeen, utc_now
from annotator_store.log.log import Log
from annotator_store.parquet.info_json import update_info
from annotator_store.validation.dataset_rules import DATASET_RULES
from annotator_store.validation.rules import load_rules
from tests.conftest import MakeDataset
from tests.datasets import Recording, edit_parquet, shard_path
from tests.store.annotated import (
    EVENTS,
    FRAMES,
    KNOWN,
    PERSISTENT,
    TOP,
    WRIST,
    Episodes,
    annotated,
    bbox,
    clean_rows,
    pair,
    persistent,
    write_shard,
)

ORPHAN = [placed for placed in clean_rows() if placed[1].style != "interjection"]
SHAPELESS = [*clean_rows(), *pair(33, TOP, bbox(1, 2, 3)), persistent("memory", 20, KNOWN.memories[0])]
NUMBER = len(load_rules()) + len(DATASET_RULES)


@pytest.fixture
def dataset(make_dataset: MakeDataset, tmp_path: Path) -> Path:
    """Three episodes in two shards, two cameras, and no language yet."""
    recordings = [Recording(seed, frames=FRAMES) for seed in (1, 2, 3)]
    return make_dataset(tmp_path, recordings, cameras=(TOP, WRIST))


def annotate(root: Path, episodes: Episodes) -> None:
    """Give every shard its rows, good or bad."""
    for number, here in enumerate(([0, 1], [2])):
        beside = write_shard(root / "beside.parquet", {index: episodes[index] for index in here})
        held = pq.ParquetFile(beside).read()
        beside.unlink()
        for column in (PERSISTENT, EVENTS):

            def put(table: Any, column: str = column, held: Any = held) -> Any:
                return table.append_column(column, held[column])

            edit_parquet(root / shard_path(number), put)

    update_info(root / "meta" / "info.json")


def shown(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    status = main(["validate", *(str(one) for one in arguments)])
    printed = capsys.readouterr()
    return status, printed.out, printed.err


def test_a_clean_dataset_is_called_clean(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotate(dataset, {0: clean_rows(), 1: clean_rows(), 2: clean_rows()})
    status, out, err = shown(capsys, dataset)
    assert (status, err) == (0, "")
    assert out == f"clean: {NUMBER} rules over 3 episodes, 120 frames, {3 * len(clean_rows())} rows\n"


def test_what_is_wrong_is_a_table_that_can_be_read(
    dataset: Path, capsys: pytest.CaptureFixture[str], snapshot: SnapshotAssertion
) -> None:
    annotate(dataset, {0: ORPHAN, 1: clean_rows(), 2: SHAPELESS})
    status, out, _ = shown(capsys, dataset)
    assert status == 1
    assert rules_of(out) == [
        "speech_prompted",
        "vqa_shape",
        "memory_on_boundary",
    ]
    assert out == snapshot


def test_warnings_alone_are_no_failure(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    late = [*clean_rows(), persistent("memory", 20, KNOWN.memories[0])]
    annotate(dataset, {0: late, 1: clean_rows(), 2: clean_rows()})
    status, out, _ = shown(capsys, dataset)
    assert status == 0
    assert out.splitlines()[-1].startswith("0 errors and 1 warning in 1 episode: ")


def test_more_findings_than_fit_are_counted(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotate(dataset, {0: ORPHAN, 1: ORPHAN, 2: ORPHAN})
    _, out, _ = shown(capsys, dataset, "--limit", "2")
    assert "  and 1 more; in 3 episodes in all\n" in out
    assert out.count("  episode ") == 2


def test_json_and_csv_are_for_scripts(dataset: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    annotate(dataset, {0: ORPHAN, 1: clean_rows(), 2: SHAPELESS})
    status, out, err = shown(capsys, dataset, "--format", "json")
    found = [json.loads(line) for line in out.splitlines()]
    assert status == 1
    assert [(one["rule"], one["severity"], one["episode_index"], one["call"]) for one in found] == [
        ("speech_prompted", "error", 0, None),
        ("vqa_shape", "error", 2, None),
        ("memory_on_boundary", "warning", 2, None),
    ]
    assert err.startswith("2 errors and 1 warning in 2 episodes")
    _, out, _ = shown(capsys, dataset, "--format", "csv")
    (tmp_path / "out.csv").write_text(out)
    assert pyarrow.csv.read_csv(tmp_path / "out.csv")["rule"].to_pylist() == [one["rule"] for one in found]


def test_only_some_episodes_may_be_looked_at(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotate(dataset, {0: ORPHAN, 1: clean_rows(), 2: SHAPELESS})
    assert shown(capsys, dataset, "--only_episodes", "1")[0] == 0
    status, out, _ = shown(capsys, dataset, "--only_episodes", "1-2")
    assert (status, "speech_prompted" in out, "vqa_shape" in out) == (1, False, True)
    assert shown(capsys, dataset, "--only_episodes", "9")[0] == 2


def test_the_vocabulary_of_the_dataset_holds_unless_it_is_switched_off(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotate(dataset, {0: clean_rows(), 1: clean_rows(), 2: clean_rows()})
    entries = {"subtasks": list(KNOWN.subtasks[:2]), "memories": list(KNOWN.memories)}
    (dataset / "meta" / "canonical_vocabulary.json").write_text(json.dumps(entries))
    status, out, _ = shown(capsys, dataset)
    assert (status, out.count("not in the vocabulary: open the hand")) == (1, 3)
    assert shown(capsys, dataset, "--vocabulary", "false")[0] == 0


@pytest.mark.parametrize("name", ["canonical_vocabulary.json", "annotations.lock.json"])
def test_a_vocabulary_or_a_lock_that_cannot_be_read_is_told_and_all_else_is_checked(
    name: str, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotate(dataset, {0: ORPHAN, 1: clean_rows(), 2: clean_rows()})
    entries = {"subtasks": ["not one of these"], "memory_milestones": []}
    (dataset / "meta" / "canonical_vocabulary.json").write_text(json.dumps(entries))
    (dataset / "meta" / name).write_text("{")
    status, out, err = shown(capsys, dataset)
    assert (status, rules_of(out)) == (1, ["speech_prompted"])
    assert err.startswith("the vocabulary is not checked – the ")
    assert name in err
    assert err.count("hint: ") == 1
    assert err.endswith("or switch it off: --vocabulary false\n")
    assert shown(capsys, dataset, "--vocabulary", "false")[2] == ""


@pytest.mark.parametrize("pinned", [True, False])
def test_a_lock_says_whether_the_vocabulary_is_in_use(
    pinned: bool, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotate(dataset, {0: clean_rows(), 1: clean_rows(), 2: clean_rows()})
    entries = {"subtasks": list(KNOWN.subtasks[:2]), "memories": []}
    (dataset / "meta" / "canonical_vocabulary.json").write_text(json.dumps(entries))
    words: Any = "ab" * 16 if pinned else None
    model = PinnedModel(digest=Digest("ab" * 16), model_id="m", revision=None, settings={})
    lock = Lock(
        seed=1,
        model=model,
        prompts={},
        vocabulary=words,
        modules={},
        settings={},
        others=(),
        shards={},
        log=model.digest,
    )
    write_lock(dataset / "meta" / "annotations.lock.json", lock)
    assert shown(capsys, dataset)[0] == (1 if pinned else 0)


Spoil = Callable[[dict[str, Any]], object]


@pytest.mark.parametrize(
    ("rule", "spoil", "said"),
    [
        ("language_declared", lambda info: info["features"].pop(EVENTS), f"has no feature {EVENTS}"),
        ("language_declared", lambda info: info["features"][PERSISTENT].update(dtype="string"), "dtype 'string'"),
        ("language_declared", lambda info: info["features"][PERSISTENT].update(shape=[2]), "shape [2]"),
        ("tool_declared", lambda info: info.update(tools=[]), "say is not declared"),
        ("tool_declared", lambda info: info.pop("tools"), "say is not declared"),
    ],
)
def test_a_dataset_that_does_not_declare_its_language_is_not_clean(
    rule: str, spoil: Spoil, said: str, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotate(dataset, {0: clean_rows(), 1: clean_rows(), 2: clean_rows()})
    path = dataset / "meta" / "info.json"
    info = json.loads(path.read_text())
    spoil(info)
    path.write_text(json.dumps(info))
    status, out, _ = shown(capsys, dataset)
    assert (status, rules_of(out)) == (1, [rule])
    assert said in out


def test_a_shard_without_the_columns_is_found_and_the_others_are_judged(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotate(dataset, {0: ORPHAN, 1: clean_rows(), 2: clean_rows()})
    edit_parquet(dataset / shard_path(1), lambda table: table.drop_columns([EVENTS]))
    status, out, _ = shown(capsys, dataset)
    assert (status, rules_of(out)) == (1, ["language_everywhere", "speech_prompted"])
    assert f"{shard_path(1)} has no {EVENTS}\n" in out
    assert "over 2 episodes" in out.splitlines()[-1]
    status, out, _ = shown(capsys, dataset, "--only_episodes", "1")
    assert (status, rules_of(out)) == (1, ["language_everywhere"])
    assert out.splitlines()[-1].startswith("1 error and 0 warnings: ")


def test_a_shard_of_another_type_is_found(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As LeRobot's own writer leaves a shard in which nothing happens."""
    annotate(dataset, {0: clean_rows(), 1: clean_rows(), 2: []})

    def inferred(table: Any) -> Any:
        index = table.schema.get_field_index(EVENTS)
        return table.set_column(index, EVENTS, pa.array([[]] * len(table), pa.list_(pa.null())))

    edit_parquet(dataset / shard_path(1), inferred)
    status, out, _ = shown(capsys, dataset)
    assert (status, rules_of(out)) == (1, ["language_everywhere"])
    assert f"{shard_path(1)}: {EVENTS} is list<null>" in out


def rules_of(out: str) -> list[str]:
    """The rules that a table names, in its order."""
    return [line.split()[1] for line in out.splitlines() if line.startswith(("error:", "warning:"))]


def test_a_team_s_own_rule_counts(dataset: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    annotate(dataset, {0: clean_rows(), 1: clean_rows(), 2: clean_rows()})
    rules = tmp_path / "rules"
    rules.mkdir()
    (rules / "polite.sql").write_text(
        "-- severity: error\n-- meaning: nobody tells the robot to wait\n"
        "SELECT episode_index, \"timestamp\", content AS detail FROM rows WHERE content ILIKE 'wait%'"
    )
    status, out, _ = shown(capsys, dataset, "--rules", rules)
    assert (status, out.splitlines()[0]) == (1, "error: polite – nobody tells the robot to wait")


@pytest.mark.parametrize("text", ["SELECT 1", "-- severity: error\n-- meaning: one\nSELECT * FROM nothing"])
def test_a_rule_that_is_none_is_a_usage_error(
    text: str, dataset: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    annotate(dataset, {0: clean_rows(), 1: clean_rows(), 2: clean_rows()})
    (tmp_path / "odd.sql").write_text(text)
    status, out, err = shown(capsys, dataset, "--rules", tmp_path)
    assert (status, out, "odd.sql" in err) == (2, "", True)


def test_a_dataset_without_language_says_so_and_what_helps(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = shown(capsys, dataset)
    assert (status, out) == (1, "")
    assert "a data shard has no language columns" in err
    assert "hint: annotator sync writes them" in err


def test_nonsense_is_a_usage_error(dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    annotate(dataset, {0: clean_rows(), 1: clean_rows(), 2: clean_rows()})
    assert shown(capsys, dataset, "--limit", "0")[0] == 2
    assert shown(capsys, dataset, "--store", dataset / "none")[0] == 2
    assert shown(capsys, dataset, "--rules", dataset / "none")[0] == 2


def test_a_log_beside_the_dataset_says_which_call_a_row_came_from(
    dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    annotate(dataset, {0: ORPHAN, 1: clean_rows(), 2: clean_rows()})
    key = "c0ffee" * 5 + "00"
    remember(dataset, annotated({0: ORPHAN}, call=key)[0])
    status, out, _ = shown(capsys, dataset)
    assert (status, out.count("  call c0ffeec0ffee\n")) == (1, 1)
    assert shown(capsys, dataset, "--store", dataset / ".annotator")[1] == out


def remember(root: Path, rows: list[AnnotatedRow]) -> None:
    """Write a log that knows the rows of episode 0."""
    told: dict[str, Any] = {"recorded_at": utc_now(), "run_id": "run"}
    digest: Any = "ab" * 16
    seen = EpisodeSeen(
        **told,
        episode=digest,
        dataset=root.name,
        revision=None,
        episode_index=0,
        tasks=("lift",),
        frame_count=FRAMES,
        duration_s=3.9,
        cameras=(CameraSeen(camera=TOP, footage=digest),),
    )
    done = EpisodeAnnotated(
        **told,
        episode=digest,
        module="plan",
        recipe=digest,
        calls=(),
        rows=tuple(rows),
        engine="scripted",
        model_id="m",
    )
    with Log.open(root / ".annotator") as log:
        log.record(seen, done).result()


def test_rows_are_held_to_the_cameras_and_the_vocabulary_of_the_dataset(dataset: Path) -> None:
    words = Vocabulary(subtasks=KNOWN.subtasks, memories=KNOWN.memories)
    assert future_rule_context(open_dataset(dataset), words) == KNOWN
    assert future_rule_context(open_dataset(dataset), None) == msgspec.structs.replace(KNOWN, subtasks=(), memories=())


def test_validating_needs_no_decoder_and_no_model(dataset: Path) -> None:
    annotate(dataset, {0: clean_rows(), 1: clean_rows(), 2: clean_rows()})
    blocked = "import sys; sys.modules.update(dict.fromkeys(['av', 'PIL', 'vllm', 'openai', 'httpx2', 'jinja2']))"
    run = f"{blocked}; from annotator.cli.main import main; sys.exit(main(['validate', {str(dataset)!r}]))"
    done = subprocess.run([sys.executable, "-c", run], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout[:6]) == (0, "clean:"), done.stderr
