"""The plan of work: what is left for which episode and why, and what of the log it is found from."""

from typing import Any

import msgspec
import pytest

from annotator.errors import FootageError
from annotator.pipeline.work_plan import (
    AnnotationLookup,
    EpisodeWork,
    PlannedModule,
    Reason,
    RunPlan,
    annotations_in_shards,
    find_annotations,
    notes_of_left_out,
    plan_work,
    restated_annotations,
)
from annotator_store.log.folds import CachedAnnotation, rows_digest
from annotator_store.log.log import Log
from tests.pipeline.unit.values import TOP, WRIST, annotation, makers, record, record_annotations, written
from tests.store.facts import at, digest

NOTHING_KNOWN = AnnotationLookup(fingerprints={}, follows={}, known={})


def reasons(plan: RunPlan) -> dict[tuple[int, str], Reason]:
    """Why each module is left, by the first episode of its group and the module's name."""
    return {(work.record.index, name): module.reason for work in plan.work for name, module in work.modules.items()}


def test_all_is_new_in_an_empty_log_and_what_follows_waits(log: Log) -> None:
    modules = makers("plan", "interjections", "vqa")
    plan = plan_work([record(0), record(1)], modules, log, "cups")
    assert reasons(plan) == {
        (index, name): reason
        for index in (0, 1)
        for name, reason in {"plan": "new", "interjections": "follows", "vqa": "new"}.items()
    }
    first = plan.work[0]
    assert first.modules["plan"].fingerprint == modules["plan"].fingerprint(record(0))
    assert first.modules["interjections"] == PlannedModule(fingerprint=None, reason="follows")
    assert (plan.episodes, plan.episodes_up_to_date, plan.left_out) == (2, 0, {})


def test_what_was_annotated_otherwise_has_changed_and_what_never_was_is_new(log: Log) -> None:
    record_annotations(log, annotation(record(0), "plan", digest("an earlier recipe")))
    plan = plan_work([record(0), record(1)], makers("plan", "vqa"), log, "cups")
    assert reasons(plan) == {(0, "plan"): "changed", (0, "vqa"): "new", (1, "plan"): "new", (1, "vqa"): "new"}


def test_a_module_whose_fingerprint_the_log_has_is_not_left(log: Log) -> None:
    modules = makers("plan", "vqa")
    record_annotations(log, annotation(record(0), "plan", modules["plan"].fingerprint(record(0))))
    plan = plan_work([record(0)], modules, log, "cups")
    assert reasons(plan) == {(0, "vqa"): "new"}


def test_nothing_is_left_where_the_log_has_every_fingerprint(log: Log) -> None:
    modules = makers("plan")
    episodes = [record(0), record(1)]
    record_annotations(log, *(annotation(e, "plan", modules["plan"].fingerprint(e)) for e in episodes))
    plan = plan_work(episodes, modules, log, "cups")
    assert (plan.work, plan.episodes, plan.episodes_up_to_date) == ((), 2, 2)


def test_what_follows_is_planned_with_the_rows_of_the_module_it_follows(log: Log) -> None:
    modules = makers("plan", "interjections")
    planned = annotation(record(0), "plan", modules["plan"].fingerprint(record(0)))
    (event,) = record_annotations(log, planned)
    (work,) = plan_work([record(0)], modules, log, "cups").work
    expected = modules["interjections"].fingerprint(record(0), rows_digest(planned))
    assert work.modules == {"interjections": PlannedModule(fingerprint=expected, reason="new", follows=event)}


def test_other_rows_of_the_followed_module_change_what_follows_it(log: Log) -> None:
    modules = makers("plan", "interjections")
    planned = annotation(record(0), "plan", modules["plan"].fingerprint(record(0)), text="reach")
    spoken = modules["interjections"].fingerprint(record(0), rows_digest(planned))
    record_annotations(log, planned, annotation(record(0), "interjections", spoken))
    assert plan_work([record(0)], modules, log, "cups").work == ()
    newer = annotation(record(0), "plan", planned.recipe, text="grasp", second=5)
    record_annotations(log, newer)
    assert reasons(plan_work([record(0)], modules, log, "cups")) == {(0, "interjections"): "changed"}


@pytest.mark.parametrize(
    ("changes", "shared"),
    [
        ({}, True),
        ({"start": 50, "stop": 60, "shard": "data/chunk-000/file-001.parquet"}, True),
        ({"task": "open the lid"}, False),
        ({"signals_digest": digest("other signals")}, False),
        ({"footage": {TOP.key: digest("another film")}}, False),
        ({"digest": digest("another recording")}, False),
    ],
    ids=["nothing", "place", "task", "signals", "footage", "recording"],
)
def test_episodes_that_nothing_tells_apart_are_worked_on_once(log: Log, changes: dict[str, Any], shared: bool) -> None:
    twin = msgspec.structs.replace(record(0), index=2, **changes)
    plan = plan_work([record(0), twin], makers("plan"), log, "cups")
    assert [work.copies for work in plan.work] == ([(0, 2)] if shared else [(0,), (2,)])
    assert (plan.episodes_to_ask, plan.episodes_up_to_date) == (2, 0)
    assert plan.count_by_module() == {"plan": 2}


def test_unreadable_footage_is_work_for_the_modules_that_look_there_whatever_the_log_has(log: Log) -> None:
    error = FootageError("the film is damaged", where="videos/wrist.mp4")
    broken = msgspec.structs.replace(
        record(0), footage={TOP.key: record(0).footage[TOP.key]}, footage_errors={WRIST.key: error}
    )
    modules = makers("plan", "vqa")
    events = (annotation(broken, name, maker.fingerprint(broken)) for name, maker in modules.items())
    record_annotations(log, *events)
    plan = plan_work([broken], modules, log, "cups")
    assert reasons(plan) == {(0, "vqa"): "footage"}


def test_an_episode_that_only_unreadable_footage_identifies_is_work_for_every_module(log: Log) -> None:
    error = FootageError("the film is damaged", where="videos/wrist.mp4")
    broken = msgspec.structs.replace(record(0), identity_error=error)
    plan = plan_work([broken], makers("plan", "interjections", "vqa"), log, "cups")
    assert set(reasons(plan).values()) == {"footage"}


def test_a_run_without_modules_has_no_episodes(log: Log) -> None:
    plan = plan_work([record(0)], {}, log, "cups")
    assert (plan.episodes, plan.work, plan.episodes_up_to_date) == (0, (), 0)


def test_a_module_is_left_out_where_the_one_it_follows_is_off_and_has_no_rows_in_the_shard(log: Log) -> None:
    planned = annotation(record(1), "plan", digest("an earlier recipe"))
    (event,) = record_annotations(log, planned)
    log.record(written([(record(0), None), (record(1), {"plan": event}), (record(2), None)])).result()
    modules = makers("interjections")
    plan = plan_work([record(index) for index in range(3)], modules, log, "cups")
    assert plan.left_out == {"interjections": (0, 2)}
    (work,) = plan.work
    fingerprint = modules["interjections"].fingerprint(record(1), rows_digest(planned))
    assert (work.copies, work.modules) == (
        (1,),
        {"interjections": PlannedModule(fingerprint=fingerprint, reason="new", follows=event)},
    )
    assert plan.episodes_up_to_date == 2
    assert notes_of_left_out(plan) == [
        "interjections: left out, episodes 0, 2 have no plan in the log\nhint: --plan.enabled=true makes it"
    ]


def test_one_episode_that_lacks_a_plan_is_told_in_the_singular() -> None:
    plan = RunPlan(episodes=1, work=(), lookup=NOTHING_KNOWN, left_out={"interjections": (4,)})
    assert notes_of_left_out(plan) == [
        "interjections: left out, episode 4 has no plan in the log\nhint: --plan.enabled=true makes it"
    ]


def test_rows_in_the_shard_of_another_dataset_are_not_followed(log: Log) -> None:
    (event,) = record_annotations(log, annotation(record(0), "plan", digest("recipe")))
    log.record(written([(record(0), {"plan": event})], dataset="bowls")).result()
    assert annotations_in_shards([record(0)], "plan", log, "cups") == {}
    assert annotations_in_shards([record(0)], "plan", log, "bowls") == {0: event}
    assert annotations_in_shards([record(0)], "vqa", log, "bowls") == {}


def test_of_episodes_that_are_alike_each_follows_the_rows_where_it_lies(log: Log) -> None:
    twins = [record(0), msgspec.structs.replace(record(0), index=1, start=10, stop=20)]
    moved = msgspec.structs.replace(record(0), index=2, start=20, stop=30)
    events = record_annotations(
        log, annotation(twins[0], "plan", digest("one task")), annotation(twins[1], "plan", digest("another task"))
    )
    log.record(written([(twin, {"plan": event}) for twin, event in zip(twins, events, strict=True)])).result()
    assert annotations_in_shards([*twins, moved], "plan", log, "cups") == {0: events[0], 1: events[1], 2: events[0]}


def test_what_an_episode_is_to_show_is_what_the_log_has_of_it() -> None:
    known = {digest("a"): CachedAnnotation(digest("event"), digest("rows"))}
    lookup = AnnotationLookup(fingerprints={0: {"plan": digest("a"), "vqa": digest("b")}}, follows={}, known=known)
    assert (lookup.sources(0), lookup.sources(1)) == ({"plan": digest("event")}, {})


def test_a_lookup_finds_fingerprints_and_what_they_follow_as_far_as_the_log_goes(log: Log) -> None:
    modules = makers("plan", "interjections")
    planned = annotation(record(0), "plan", modules["plan"].fingerprint(record(0)))
    (event,) = record_annotations(log, planned)
    lookup = find_annotations([record(0), record(1)], modules, log, "cups")
    spoken = modules["interjections"].fingerprint(record(0), rows_digest(planned))
    assert lookup.fingerprints == {
        0: {"plan": planned.recipe, "interjections": spoken},
        1: {"plan": modules["plan"].fingerprint(record(1))},
    }
    assert lookup.follows == {0: {"interjections": event}, 1: {}}
    assert lookup.known == {planned.recipe: CachedAnnotation(event, rows_digest(planned))}


def planned_module(reason: Reason = "new", *, asks: bool = True) -> PlannedModule:
    return PlannedModule(fingerprint=digest("fingerprint"), reason=reason, asks=asks)


PLAN = RunPlan(
    episodes=10,
    work=(
        EpisodeWork(
            record=record(0), modules={"plan": planned_module(), "vqa": planned_module(asks=False)}, copies=(0, 5)
        ),
        EpisodeWork(record=record(1), modules={"vqa": planned_module("changed", asks=False)}, copies=(1, 6, 7)),
        EpisodeWork(record=record(2), modules={"plan": planned_module("changed")}, copies=(2,)),
    ),
    lookup=NOTHING_KNOWN,
)


def test_a_plan_counts_every_copy_of_an_episode() -> None:
    assert PLAN.episodes_to_ask == 3
    assert PLAN.episodes_up_to_date == 4
    assert PLAN.count_by_module() == {"plan": 3}
    assert PLAN.count_by_reason() == {
        ("plan", "new"): 2,
        ("vqa", "new"): 2,
        ("vqa", "changed"): 3,
        ("plan", "changed"): 1,
    }


def test_the_work_of_some_modules_is_that_of_no_other() -> None:
    assert set(PLAN.work[0].only(["vqa"]).modules) == {"vqa"}
    assert PLAN.work[0].only(["vqa"]).copies == (0, 5)


def lookup_of(*fingerprints: tuple[int, str], log: Log) -> AnnotationLookup:
    """A lookup in which each episode's plan has one of these fingerprints."""
    by_index = {index: {"plan": digest(name)} for index, name in fingerprints}
    return AnnotationLookup(
        fingerprints=by_index, follows={}, known=log.recipes([digest(name) for _, name in fingerprints])
    )


def test_an_annotation_that_a_later_run_replaced_is_restated_for_this_run(log: Log) -> None:
    earlier = annotation(record(0), "plan", digest("wanted"), second=1)
    record_annotations(log, earlier, annotation(record(0), "plan", digest("other settings"), second=2))
    (restated,) = restated_annotations([record(0)], lookup_of((0, "wanted"), log=log), log, "run-9")
    assert restated == msgspec.structs.replace(earlier, recorded_at=restated.recorded_at, run_id="run-9")
    assert restated.recorded_at > at(2)
    record_annotations(log, restated)
    assert restated_annotations([record(0)], lookup_of((0, "wanted"), log=log), log, "run-9") == []


def test_an_annotation_that_is_the_newest_or_not_there_is_not_restated(log: Log) -> None:
    record_annotations(log, annotation(record(0), "plan", digest("wanted"), second=3))
    assert restated_annotations([record(0)], lookup_of((0, "wanted"), log=log), log, "run-9") == []
    assert restated_annotations([record(0)], lookup_of((0, "missing"), log=log), log, "run-9") == []


def test_of_twins_with_two_tasks_either_annotation_may_be_the_newest(log: Log) -> None:
    twins = [record(0), msgspec.structs.replace(record(0), index=1, task="open the lid")]
    record_annotations(
        log,
        annotation(twins[0], "plan", digest("one"), second=1),
        annotation(twins[1], "plan", digest("two"), second=2),
    )
    lookup = lookup_of((0, "one"), (1, "two"), log=log)
    assert restated_annotations(twins, lookup, log, "run-9") == []
    record_annotations(log, annotation(twins[0], "plan", digest("other settings"), second=3))
    restated = restated_annotations(twins, lookup, log, "run-9")
    assert {event.recipe for event in restated} == {digest("one"), digest("two")}
