"""Each rule finds its own fault, and only that; rule files are read strictly."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest

from annotator_store.errors import RuleError
from annotator_store.rows import EVENTS, PERSISTENT, Row
from annotator_store.validation.dataset_rules import DATASET_RULES
from annotator_store.validation.report import ValidationReport
from annotator_store.validation.rules import SHIPPED, digest_rules, load_rules
from annotator_store.validation.run import check_rows, check_shards, try_rules
from tests.store.annotated import (
    FRAMES,
    HEIGHT,
    KNOWN,
    TOP,
    WIDTH,
    WRIST,
    Episodes,
    Placed,
    annotated,
    at,
    bbox,
    clean_episodes,
    clean_rows,
    event,
    pair,
    persistent,
    point,
    say,
    speech,
    write_frames,
    write_shard,
)

NAMES = sorted(path.stem for path in SHIPPED.glob("*.sql"))
Fault = Callable[[list[Placed]], list[Placed]]


def changed(style: str | None, frame: int, /, **changes: Any) -> Fault:
    """Change all rows of a style on a frame."""

    def fault(rows: list[Placed]) -> list[Placed]:
        hits = [here(row, style, frame) for _, row in rows]
        assert any(hits)
        return [
            (column, msgspec.structs.replace(row, **changes)) if hit else (column, row)
            for hit, (column, row) in zip(hits, rows, strict=True)
        ]

    return fault


def without(style: str | None, frame: int, role: str | None = None) -> Fault:
    """Leave out the rows of a style on a frame."""
    return lambda rows: [
        (column, row) for column, row in rows if not (here(row, style, frame) and role in (None, row.role))
    ]


def with_more(*more: Placed) -> Fault:
    """Add rows."""
    return lambda rows: [*rows, *more]


def moved(style: str, frame: int, column: Any) -> Fault:
    """Put the rows of a style on a frame into a column."""
    return lambda rows: [(column if here(row, style, frame) else was, row) for was, row in rows]


def answering(answer: Any) -> Fault:
    """Answer the question on frame 5 otherwise."""
    return lambda rows: [*without("vqa", 5)(rows), *pair(5, TOP, answer)]


def saying(*calls: Any) -> Fault:
    """Say something else at the beginning."""
    texts = [call if isinstance(call, str) else json.dumps(call) for call in calls]
    return lambda rows: [*without(None, 0)(rows), speech(0, *texts)]


def here(row: Row, style: str | None, frame: int) -> bool:
    return row.style == style and row.timestamp == at(frame)


def call(**changes: Any) -> dict[str, Any]:
    function = {"name": "say", "arguments": {"text": "On it."}}
    return {"type": "function", "function": function | changes}


BOX = {"label": "cube", "bbox_format": "xyxy", "bbox": [1, 2, 3, 4]}
FAULTS: dict[str, list[Fault]] = {
    "frame_alignment": [changed("motion", 20, timestamp=2.04), changed("motion", 20, timestamp=99.0)],
    "known_style": [changed("motion", 20, style="mood")],
    "style_column": [moved("motion", 20, EVENTS), moved("trace", 25, PERSISTENT)],
    "style_role": [changed("motion", 20, role="user"), changed("task_aug", 0, role="assistant")],
    "style_camera": [
        changed("motion", 20, camera=TOP),
        changed("vqa", 5, camera=None),
        changed("trace", 25, camera="observation.images.none"),
        changed(None, 0, camera=TOP),
    ],
    "one_row_per_time": [
        with_more(persistent("plan", 30, "1. open the hand wide")),
        with_more(event("interjection", "user", 15, "And hurry.")),
    ],
    "rows_apart": [with_more(persistent("plan", 31, "1. open the hand soon after"))],
    "row_says_something": [changed("motion", 20, content=None), changed(None, 0, tool_calls=None)],
    "no_empty_text": [
        changed("motion", 20, content=" \n"),
        changed("vqa", 10, content=""),
        *(
            changed("motion", 20, content=blank)
            for blank in ("\xa0", "\u200b", " \u3000\ufeff", "\u2060", "\u2800", "\v\x00")
        ),
        answering({"label": " ", "count": 2}),
        answering({"label": "cube", "attribute": "color", "value": "\xa0"}),
        answering({"label": "cube", "attribute": "", "value": "red"}),
        answering({"subject": "", "relation": "on", "object": "bowl"}),
        answering({"subject": "cube", "relation": "\u200b", "object": "bowl"}),
        answering({"subject": "cube", "relation": "on", "object": "\t"}),
        answering({"label": "cube", "count": 2, "note": ""}),
        answering({"detections": [BOX, BOX | {"label": "\u200b"}]}),
        answering({"label": "", "point_format": "xy", "point": [1, 2]}),
    ],
    "speech_content": [changed(None, 0, content="On it.")],
    "tool_calls_place": [changed("motion", 20, tool_calls=(json.dumps(call()),))],
    "say_arguments": [
        saying({"function": call()["function"]}),
        saying(call(name=3)),
        saying(call(name="\u200b")),
        saying(call(arguments='{"text": "On it."}')),
        saying(call(arguments={})),
        saying(call(arguments={"text": 3})),
        saying(call(arguments={"text": " "})),
        saying("On it."),
        saying('{"type": "function", "function": {"name": "say", "arguments": {"text": "On it."},}}'),
    ],
    "one_speech_per_frame": [with_more(say(0, "At once.")), saying(call(), call())],
    "interjection_answered": [without(None, 15)],
    "tool_declared": [saying(call(name="shout")), with_more(speech(20, json.dumps(call(name="shout", arguments=[]))))],
    "task_aug_at_start": [with_more(persistent("task_aug", 15, "lift it"))],
    "task_aug_once": [with_more(persistent("task_aug", 0, "Lift the cube, now "))],
    "interjection_on_subtask": [
        with_more(
            event("interjection", "user", 20, "Faster."),
            say(20, "Faster."),
            persistent("plan", 20, "1. Lift the cube at once"),
        )
    ],
    "speech_prompted": [without("interjection", 15), with_more(say(1, "Late."))],
    "interjection_replans": [without("plan", 15)],
    "plan_on_subtask": [
        changed("plan", 15, content="1. open the hand\n2. lift the cube"),
        with_more(persistent("plan", 20, "1. open the hand")),
    ],
    "memory_on_boundary": [with_more(persistent("memory", 20, KNOWN.memories[0]))],
    "subtask_cover": [without("subtask", 0)],
    "vqa_shape": [
        answering("two cubes"),
        answering("[]"),
        answering('{"count": NaN, "label": "cube"}'),
        answering('{"count": 2, "label": "cube",}'),
        answering({}),
        answering({"label": "cube"}),
        answering({"label": "cube", "count": 2, "sure": True}),
        answering({"label": "cube", "count": "2"}),
        answering({"label": "cube", "count": 2.5}),
        answering({"label": "cube", "count": -2}),
        answering({"label": "cube", "count": 2, "note": 3}),
        answering({"label": 3, "attribute": "color", "value": "red"}),
        answering({"subject": "cube", "relation": ["on"], "object": "bowl"}),
        answering({"detections": BOX}),
        answering({"detections": [BOX, BOX | {"score": 0.5}]}),
        answering({"detections": [{"label": "cube", "bbox": [1, 2, 3, 4]}]}),
        answering({"detections": [BOX | {"bbox_format": "xywh"}]}),
        answering(bbox(1, 2, 3)),
        answering(bbox(1, 2, 3, "4")),
        answering({"label": "cube", "point_format": "yx", "point": [1, 2]}),
        answering(point(1, "2")),
        answering({"label": "cube", "point_format": "xy", "point": [1, 2, 3]}),
    ],
    "vqa_box_order": [answering(bbox(9, 2, 3, 4)), answering(bbox(1, 9, 3, 4)), answering(bbox(3, 2, 3, 4))],
    "vqa_inside_frame": [
        answering(bbox(-1, 2, 3, 4)),
        answering(bbox(1, 2, WIDTH + 0.5, 4)),
        answering(bbox(1, 2, 3, HEIGHT + 1)),
        answering(point(WIDTH, 2)),
        answering(point(2, HEIGHT)),
        answering(point(2, -0.1)),
    ],
    "vqa_pair": [without("vqa", 5, "user"), without("vqa", 5, "assistant")],
    "vqa_once": [with_more(event("vqa", "user", 5, "And there?", TOP)), with_more(*pair(5, TOP, bbox(1, 2, 3, 4)))],
    "vqa_one_camera": [with_more(*pair(5, WRIST, bbox(1, 2, 3, 4)))],
    "vocabulary_subtasks": [changed("subtask", 15, content="Lift the cube")],
    "vocabulary_memories": [
        changed("memory", 15, content="I did something else."),
        changed("memory", 15, content=f"{KNOWN.memories[0]} I did something else. {KNOWN.memories[1]}"),
        changed("memory", 15, content=f"Then {KNOWN.memories[0]}"),
    ],
    "persistent_on_every_frame": [],
}
SEEDED = [(name, number) for name, faults in FAULTS.items() for number in range(len(faults))]


def faulty(name: str, number: int) -> Episodes:
    return {3: clean_rows(), 7: FAULTS[name][number](clean_rows())}


def assert_only(verdict: ValidationReport, name: str) -> None:
    assert {breach.rule.name for breach in verdict.violations} == {name}
    assert {finding.episode_index for finding in verdict.findings} == {7}


def test_every_rule_has_a_fault_of_its_own() -> None:
    assert sorted(FAULTS) == NAMES
    assert [name for name, faults in FAULTS.items() if not faults] == ["persistent_on_every_frame"]


def test_clean_rows_break_no_rule(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "shard.parquet", clean_episodes())
    verdict = check_shards([shard], load_rules(), KNOWN)
    assert (verdict.violations, verdict.rules, verdict.episodes) == ((), len(NAMES), 2)
    assert (verdict.frames, verdict.rows) == (2 * FRAMES, 2 * len(clean_rows()))
    assert check_rows([(shard, annotated(clean_episodes()))], load_rules(), KNOWN) == verdict


@pytest.mark.parametrize(("name", "number"), SEEDED)
def test_a_rule_finds_its_own_fault_in_a_shard_and_only_that(name: str, number: int, tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "shard.parquet", faulty(name, number))
    assert_only(check_shards([shard], load_rules(), KNOWN), name)


@pytest.mark.parametrize(("name", "number"), [one for one in SEEDED if one[0] != "style_column"])
def test_a_rule_finds_its_own_fault_before_rows_are_written(name: str, number: int, tmp_path: Path) -> None:
    """A row that is yet to be written goes to its column, so that one rule has nothing to find here."""
    shard = write_frames(tmp_path / "shard.parquet", [3, 7])
    assert_only(check_rows([(shard, annotated(faulty(name, number)))], load_rules(), KNOWN), name)


@pytest.mark.parametrize("timestamp", [0.54, 0.5 + 1e-12, 0.1, float("nan"), -1.0])
def test_an_event_stands_on_a_frame_exactly_or_is_found(timestamp: float, tmp_path: Path) -> None:
    """0.1 is no float32 either: no frame has it."""
    shard = write_frames(tmp_path / "shard.parquet", [3, 7])
    episodes = clean_episodes() | {7: changed("vqa", 5, timestamp=timestamp)(clean_rows())}
    assert_only(check_rows([(shard, annotated(episodes))], load_rules(), KNOWN), "frame_alignment")


def test_a_list_that_changes_within_an_episode_is_found_where_it_changes(tmp_path: Path) -> None:
    def change(table: Any) -> Any:
        lists = table["language_persistent"].combine_chunks().cast(table.schema.field("language_persistent").type)
        order = list(range(2 * FRAMES))
        order[FRAMES + 9] = 0  # a frame of the second episode has the list of the first
        return table.set_column(3, "language_persistent", lists.take(order))

    episodes = clean_episodes() | {7: without("motion", 20)(clean_rows())}
    for row_group in (FRAMES, 7, 1000):
        shard = write_shard(tmp_path / "shard.parquet", episodes, row_group=row_group, change=change)
        verdict = check_shards([shard], load_rules(), KNOWN)
        assert_only(verdict, "persistent_on_every_frame")
        assert [finding.timestamp for finding in verdict.findings] == [at(9)]


@pytest.mark.parametrize("row_group", [FRAMES, 7, 1000])
def test_a_list_of_the_same_length_that_says_something_else_is_found(row_group: int, tmp_path: Path) -> None:
    """From frame 14 on: also where a row group, with a dictionary of its own, begins there."""
    kept = clean_rows()
    other = changed("motion", 20, content="opens the hand")(kept)

    def change(table: Any) -> Any:
        lists, others = (write(rows)["language_persistent"].combine_chunks() for rows in (kept, other))
        mixed = lists.slice(0, 14).to_pylist() + others.slice(14).to_pylist()
        return table.set_column(3, "language_persistent", [mixed]).cast(table.schema)

    def write(rows: list[Placed]) -> Any:
        return pq.ParquetFile(write_shard(tmp_path / "one.parquet", {7: rows})).read()

    shard = write_shard(tmp_path / "shard.parquet", {7: kept}, row_group=row_group, change=change)
    verdict = check_shards([shard], load_rules(), KNOWN)
    assert_only(verdict, "persistent_on_every_frame")
    assert [finding.timestamp for finding in verdict.findings] == [at(14)]


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_says_how_much_it_weighs_and_what_it_means(name: str) -> None:
    severity, meaning, *_ = (SHIPPED / f"{name}.sql").read_text().splitlines()
    assert severity in ("-- severity: error", "-- severity: warning")
    assert re.fullmatch(r"-- meaning: [a-z].{10,100}[^.]", meaning)


def test_a_style_that_an_episode_does_not_have_is_not_missed(tmp_path: Path) -> None:
    """Modules may be off: questions alone, or subtasks alone, are sound."""
    only_vqa = [placed for placed in clean_rows() if placed[1].style == "vqa"]
    only_subtasks = [placed for placed in clean_rows() if placed[1].style == "subtask"]
    shard = write_shard(tmp_path / "shard.parquet", {1: only_vqa, 2: only_subtasks, 3: []})
    assert not check_shards([shard], load_rules(), KNOWN).violations


def test_a_memory_may_hold_several_entries_in_any_order_and_one_of_them_again(tmp_path: Path) -> None:
    """An entry that is the beginning of another does not take it apart."""
    entries = (*KNOWN.memories, "I gripped", "I gripped the cube. (Twice.)*")
    known = msgspec.structs.replace(KNOWN, memories=entries)
    rows = changed("memory", 15, content=" ".join([*entries, entries[0], *reversed(entries)]))(clean_rows())
    shard = write_shard(tmp_path / "shard.parquet", {7: rows})
    assert not check_shards([shard], load_rules(), known).violations


def test_without_a_vocabulary_words_are_free(tmp_path: Path) -> None:
    shard = write_shard(tmp_path / "shard.parquet", faulty("vocabulary_subtasks", 0))
    assert not check_shards([shard], load_rules(), msgspec.structs.replace(KNOWN, subtasks=())).violations


def test_a_declared_tool_may_be_called_anywhere_and_more_than_once(tmp_path: Path) -> None:
    """What is said of speech goes for `say` alone."""
    waves = [json.dumps(call(name="wave", arguments={"times": 2})), json.dumps(call(name="wave", arguments={}))]
    shard = write_shard(tmp_path / "shard.parquet", {7: [*clean_rows(), speech(20, *waves), speech(21, *waves)]})
    waving = msgspec.structs.replace(KNOWN, tools=("say", "wave"))
    assert not check_shards([shard], load_rules(), waving).violations
    assert_only(check_shards([shard], load_rules(), KNOWN), "tool_declared")


def test_another_tool_does_not_answer_an_interjection(tmp_path: Path) -> None:
    rows = [*without(None, 15)(clean_rows()), speech(15, json.dumps(call(name="wave")))]
    shard = write_shard(tmp_path / "shard.parquet", {7: rows})
    waving = msgspec.structs.replace(KNOWN, tools=("say", "wave"))
    assert_only(check_shards([shard], load_rules(), waving), "interjection_answered")


def test_interjections_are_free_where_there_are_no_subtasks_and_a_count_may_have_no_note(tmp_path: Path) -> None:
    rows = FAULTS["interjection_on_subtask"][0](
        [placed for placed in clean_rows() if placed[1].style not in ("subtask", "memory")]
    )
    rows = [*without("vqa", 5)(rows), *pair(5, TOP, {"label": "cube", "count": 2, "note": None})]
    shard = write_shard(tmp_path / "shard.parquet", {7: rows})
    assert not check_shards([shard], load_rules(), KNOWN).violations


def test_rows_two_tenths_of_a_second_apart_are_far_enough(tmp_path: Path) -> None:
    starts = range(FRAMES - 2)
    episodes = {
        frame: [persistent("plan", frame, "1. this"), persistent("plan", frame + 2, "1. that")] for frame in starts
    }
    shard = write_frames(tmp_path / "shard.parquet", starts)
    assert not check_rows([(shard, annotated(episodes))], load_rules(), KNOWN).violations


# --- rules of one's own ------------------------------------------------------------------------------------------

HEAD = "-- severity: error\n-- meaning: a plan has at least two steps\n"
OWN = (
    HEAD
    + 'SELECT episode_index, "timestamp", content AS detail FROM rows\n'
    + "WHERE content = '1. Open the hand; -- one';\n-- end\n"
)


def own(folder: Path, text: str, name: str = "own") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.sql").write_text(text, encoding="utf-8")
    return folder


def test_an_own_rule_runs_beside_the_shipped_ones(tmp_path: Path) -> None:
    rules = load_rules(own(tmp_path / "rules", OWN))
    assert sorted(rule.name for rule in rules) == sorted([*NAMES, "own"])
    episodes = clean_episodes() | {7: changed("plan", 30, content="1. Open the hand; -- one")(clean_rows())}
    shard = write_shard(tmp_path / "shard.parquet", episodes)
    assert_only(check_shards([shard], rules, KNOWN), "own")


def test_an_own_rule_takes_the_place_of_a_shipped_one_of_its_name(tmp_path: Path) -> None:
    softer = (SHIPPED / "subtask_cover.sql").read_text().replace("error", "warning", 1)
    rules = load_rules(own(tmp_path / "rules", softer, "subtask_cover"))
    assert [rule.name for rule in rules] == NAMES
    assert [rule.severity for rule in rules if rule.name == "subtask_cover"] == ["warning"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SELECT 1",
        "-- severity: fatal\n-- meaning: this\nSELECT 1",
        "-- severity: error\nSELECT 1",
        "-- meaning: this\n-- severity: error\nSELECT 1",
        "-- severity: error\n-- meaning:\nSELECT 1",
        HEAD,
        HEAD + "SELECT 1; SELECT 2",
        HEAD + "DELETE FROM rows",
        HEAD + "COPY rows TO 'rows.csv'",
        HEAD + "SELEKT 1",
    ],
)
def test_a_file_that_is_no_rule_is_refused_by_its_name(text: str, tmp_path: Path) -> None:
    with pytest.raises(RuleError, match=r"rules/own\.sql"):
        load_rules(own(tmp_path / "rules", text))


def test_a_file_name_that_is_no_name_and_a_folder_without_rules_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuleError, match="Own rule"):
        load_rules(own(tmp_path / "rules", OWN, "Own rule"))
    (tmp_path / "none").mkdir()
    for folder in (tmp_path / "none", tmp_path / "missing"):
        with pytest.raises(RuleError, match=folder.name):
            load_rules(folder)


@pytest.mark.parametrize(
    ("select", "said"),
    [
        ("SELECT 1 AS episode_index, 'x' AS detail", "no timestamp"),
        ("SELECT * FROM nothing", "nothing"),
        ("SELECT steps FROM rows", "steps"),
        (
            "SELECT 1 AS episode_index, 0 AS \"timestamp\", content AS detail FROM read_text('/etc/hostname')",
            "disabled",
        ),
        ("SELECT 1 AS episode_index, 0 AS \"timestamp\", 'x' AS detail FROM read_parquet('*')", "disabled"),
    ],
)
def test_a_rule_that_cannot_run_names_itself_before_there_are_rows(select: str, said: str, tmp_path: Path) -> None:
    rules = load_rules(own(tmp_path / "rules", HEAD + select))
    with pytest.raises(RuleError, match=r"rules/own\.sql") as refused:
        try_rules(rules)
    assert said in str(refused.value)


def test_a_rule_that_fails_on_some_rows_names_itself(tmp_path: Path) -> None:
    select = 'SELECT episode_index, "timestamp", content::INT::VARCHAR AS detail FROM rows'
    rules = load_rules(own(tmp_path / "rules", HEAD + select))
    try_rules(rules)
    shard = write_shard(tmp_path / "shard.parquet", clean_episodes())
    with pytest.raises(RuleError, match=r"own\.sql"):
        check_shards([shard], rules, KNOWN)


def test_the_shipped_rules_run_over_nothing() -> None:
    try_rules(load_rules())


def test_every_part_of_a_rule_that_changes_a_verdict_is_in_the_digest(tmp_path: Path) -> None:
    texts = [OWN, OWN.replace("error", "warning"), OWN.replace("one'", "two'")]
    folders = [own(tmp_path / f"{number}", text) for number, text in enumerate(texts)]
    folders.append(own(tmp_path / "renamed", OWN, "other"))
    digests = [digest_rules(load_rules(folder)) for folder in folders]
    assert len({*digests, digest_rules(load_rules())}) == 5
    assert digest_rules(load_rules(own(tmp_path / "moved", OWN))) == digests[0]


# --- the page ----------------------------------------------------------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "validation.md"


def test_the_page_lists_the_rules_as_the_files_have_them() -> None:
    rules = (*load_rules(), *DATASET_RULES)
    expected = [f"| `{rule.name}` | {rule.severity} | {rule.meaning} |" for rule in rules]
    assert re.findall(r"^\| `\w+` \| (?:error|warning) \| .+$", PAGE.read_text(), re.M) == expected


def test_the_page_lists_the_tables_that_rules_can_read(tmp_path: Path) -> None:
    select = """
        SELECT NULL AS episode_index, NULL AS "timestamp", table_name || ': ' || string_agg(
            column_name || ' ' || data_type, ', ' ORDER BY column_index) AS detail
        FROM duckdb_columns() WHERE NOT internal GROUP BY table_name
    """
    shard = write_frames(tmp_path / "shard.parquet", [1])
    verdict = check_rows([(shard, {1: []})], load_rules(own(tmp_path / "rules", HEAD + select)), KNOWN)
    listed = re.findall(r"^\| `(\w+)` \| (\w+ [A-Z]+.*) \|$", PAGE.read_text(), re.M)
    assert [f"{name}: {columns}" for name, columns in listed] == [finding.detail for finding in verdict.findings]
    assert len(listed) == 10


def test_the_rule_on_the_page_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"```sql\n(.*?)```", PAGE.read_text(), re.S)
    rules = load_rules(own(tmp_path / "rules", text))
    steps = changed("plan", 30, content="\n".join(f"{number}. open the hand" for number in range(9)))
    shard = write_shard(tmp_path / "shard.parquet", {3: clean_rows(), 7: steps(clean_rows())})
    assert_only(check_shards([shard], rules, KNOWN), "own")
