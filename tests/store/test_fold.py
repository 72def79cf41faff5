"""The folds do not care about order or repetition, in Python or in DuckDB."""

from collections.abc import Sequence
from datetime import UTC, timedelta, timezone

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from annotator_store.digests import Digest
from annotator_store.log.cache import Cache
from annotator_store.log.events import (
    AnyEvent,
    CallAnswered,
    CallDeclined,
    EpisodeAnnotated,
    VocabularyDiscovered,
    VocabularyEdited,
    decode_event,
)
from annotator_store.log.folds import (
    Answered,
    DeclinedBefore,
    Known,
    LatestAnnotation,
    annotation_of,
    as_utc,
    fold_current,
    fold_discovered,
    fold_known,
    fold_vocabulary,
    outcome_of,
    rows_digest,
)
from annotator_store.log.lines import entry_of
from tests.store.facts import NOON, annotated, answered, declined, digest, discovered, edited, rejected, row

# Few keys, few times: collisions and ties are the rule.
calls = st.builds(answered, st.integers(0, 1), st.integers(0, 1), st.integers(0, 2), reply=st.sampled_from("abc"))
refusals = st.builds(declined, st.integers(0, 1), st.integers(0, 1), st.integers(0, 2), st.sampled_from("xy"))
annotations = st.builds(
    lambda episode, second, module, text: annotated(episode, second, module=module, rows=(row(text),)),
    st.integers(0, 1),
    st.integers(0, 2),
    st.sampled_from(["plan", "vqa"]),
    st.sampled_from("abc"),
)
words = st.lists(st.sampled_from("ab"), max_size=2)
discoveries = st.builds(
    lambda second, subtasks, dataset, recipe: discovered(second, subtasks, dataset=dataset, recipe=recipe),
    st.integers(0, 2),
    words,
    st.sampled_from(["cups", "it's"]),
    st.integers(0, 1),
)
edits = st.builds(edited, st.integers(0, 2), words)
histories = st.lists(calls | refusals | annotations | discoveries | edits, max_size=12)
Vocabularies = tuple[dict[str, VocabularyDiscovered | VocabularyEdited], dict[Digest, VocabularyDiscovered]]


def known(events: Sequence[AnyEvent]) -> dict[Digest, Known]:
    outcomes = (outcome_of(entry_of(event).id, event) for event in events)
    return fold_known(outcome for outcome in outcomes if outcome is not None)


def current(events: Sequence[AnyEvent]) -> dict[tuple[Digest, str], LatestAnnotation]:
    found = (annotation_of(entry_of(event).id, event) for event in events if isinstance(event, EpisodeAnnotated))
    return fold_current(found)


def vocabularies(events: Sequence[AnyEvent]) -> Vocabularies:
    pairs = [(entry_of(event).id, event) for event in events]
    return fold_vocabulary(pairs), fold_discovered(pairs)


def vocabularies_by_cache(cache: Cache) -> Vocabularies:
    by_dataset = {name: cache.select("select_vocabulary", {"dataset": name}) for name in ("cups", "it's")}
    recipes = [digest("discovery", n) for n in range(2)]
    by_recipe = {recipe: cache.select("select_discovered", {"recipe": recipe}) for recipe in recipes}
    found = fold_vocabulary(
        (event_id, decode_event(body.encode())) for rows in by_dataset.values() for event_id, body in rows
    )
    first = fold_discovered(
        (event_id, decode_event(body.encode())) for rows in by_recipe.values() for event_id, body in rows
    )
    assert all(len(rows) <= 1 for rows in (*by_dataset.values(), *by_recipe.values()))
    return found, first


def known_by_cache(cache: Cache, episode: int) -> dict[Digest, Known]:
    bodies = dict(cache.select("select_known", {"episode": digest("episode", episode)}))
    return known([decode_event(body.encode()) for body in bodies.values()])


@given(histories, histories)
def test_folding_a_then_b_is_folding_b_then_a(a: list[AnyEvent], b: list[AnyEvent]) -> None:
    assert known([*a, *b]) == known([*b, *a]) == known([*a, *b, *a])
    assert current([*a, *b]) == current([*b, *a]) == current([*a, *b, *a])
    assert vocabularies([*a, *b]) == vocabularies([*b, *a]) == vocabularies([*a, *b, *a])


@settings(max_examples=10, deadline=None)
@given(st.lists(histories, min_size=1, max_size=3))
def test_duckdb_folds_batches_in_any_order_to_what_python_folds(batches: list[list[AnyEvent]]) -> None:
    events = [event for batch in batches for event in batch]
    cache = Cache.in_memory()
    for batch in [*reversed(batches), batches[0]]:
        cache.ingest([entry_of(event) for event in batch])
    assert cache.current() == current(events)
    found = known_by_cache(cache, 0) | known_by_cache(cache, 1)
    assert vocabularies_by_cache(cache) == vocabularies(events)
    cache.close()
    assert found == known(events)


def test_the_first_answer_counts() -> None:
    first, second = answered(1, 1, 1, reply="first"), answered(1, 1, 2, reply="second")
    assert known([second, first]) == {first.key: Answered(first.key, "first", "stop", "openai", "some/model")}


def test_an_answer_counts_before_an_earlier_refusal() -> None:
    refusal, answer = declined(1, 1, 1), answered(1, 1, 2)
    assert isinstance(known([refusal, answer])[answer.key], Answered)
    assert known([refusal]) == {refusal.key: DeclinedBefore(refusal.key, "cannot see", "signals")}


def test_a_rejection_takes_no_answer_away() -> None:
    assert known([answered(1, 1), rejected(1, 1, 5)]) == known([answered(1, 1)])


def test_the_last_annotation_counts_for_each_module() -> None:
    old, new, other = annotated(1, 1, rows=(row("old"),)), annotated(1, 2), annotated(1, 0, module="vqa")
    found = current([new, old, other])
    assert found[old.episode, "plan"].event_id == entry_of(new).id
    assert found[old.episode, "vqa"].event_id == entry_of(other).id


def test_the_last_vocabulary_counts_for_each_dataset_and_the_first_discovery_for_each_recipe() -> None:
    old, new, hand = discovered(1), discovered(3, ["b"]), edited(2)
    other = discovered(0, dataset="bowls", recipe="other")
    assert vocabularies([new, other, hand, old]) == (
        {"cups": new, "bowls": other},
        {old.recipe: old, other.recipe: other},
    )
    assert vocabularies([old, hand])[0] == {"cups": hand}


def test_the_rows_digest_covers_the_rows_and_the_task_and_nothing_else() -> None:
    base = annotated(1, 1, rows=(row("a", 0.0), row("b", 1.0)))
    assert rows_digest(base) == rows_digest(annotated(1, 9, rows=(row("b", 1.0), row("a", 0.0)), recipe="other"))
    assert rows_digest(base) != rows_digest(annotated(1, 1, rows=(row("a", 0.0),)))
    assert rows_digest(base) != rows_digest(annotated(1, 1, rows=(row("a", 0.0), row("b", 1.5))))
    assert rows_digest(base) != rows_digest(msgspec.structs.replace(base, task="fold the towel"))
    assert rows_digest(base) == "fda7cee6a3a0c248d92a7719998f6078"


def test_a_time_of_another_zone_is_the_same_moment() -> None:
    abroad = NOON.astimezone(timezone(timedelta(hours=5)))
    assert as_utc(abroad) == NOON
    assert as_utc(abroad).tzinfo is UTC
    assert as_utc(NOON.replace(tzinfo=None)) == NOON


def test_events_that_end_no_call_say_nothing_about_calls() -> None:
    assert outcome_of(digest("id"), rejected(1, 1)) is None
    assert {type(event) for event in (answered(1, 1), declined(1, 1))} == {CallAnswered, CallDeclined}
