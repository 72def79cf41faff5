"""The plan of a run: what is to do, and why. `sync`, `plan_run` and `job submit` share it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from annotator.config.load import spell_episodes
from annotator.dataset.episode_record import EpisodeRecord
from annotator.modules.registry import all_modules, module_named
from annotator.pipeline.fingerprints import ModuleFingerprints
from annotator_store.digests import Digest
from annotator_store.log.events import EpisodeAnnotated, utc_now
from annotator_store.log.folds import rows_digest
from annotator_store.log.log import CachedAnnotation, Log
from annotator_store.log.shard_history import fold_shards

Reason = Literal["new", "changed", "follows", "footage"]
"""Why a module is to run for an episode: it never did; something its rows depend on changed; it follows a module that
is to run first; its footage cannot be read."""


class PlannedModule(msgspec.Struct, frozen=True, kw_only=True):
    """One module that is left to run for one episode.

    `fingerprint` is None where it depends on rows of another module that is itself to run. `follows` is the annotation
    whose rows it follows, where that is in the log. `asks`: a call is needed that the log does not know; False is
    known only after `plan_run`, which looks.
    """

    fingerprint: Digest | None
    reason: Reason
    follows: Digest | None = None
    asks: bool = True


class EpisodeWork(msgspec.Struct, frozen=True, kw_only=True):
    """What is left to do for one episode, module by module; `copies` are the indices of all episodes that share it."""

    record: EpisodeRecord
    modules: dict[str, PlannedModule]
    copies: tuple[int, ...]

    def only(self, names: Iterable[str]) -> "EpisodeWork":
        """Return the work of some modules alone."""
        kept = {name: self.modules[name] for name in names}
        return msgspec.structs.replace(self, modules=kept)


class AnnotationLookup(msgspec.Struct, frozen=True, kw_only=True):
    """What the episodes that were asked for are to show, as far as the log can tell.

    `fingerprints`: episode index → module → fingerprint. `follows`: the same → the annotation it follows.
    `known`: fingerprint → the annotation in the log that carries it.
    """

    fingerprints: dict[int, dict[str, Digest]]
    follows: dict[int, dict[str, Digest]]
    known: dict[Digest, CachedAnnotation]

    def sources(self, index: int) -> dict[str, Digest]:
        """Return the annotation of each module that an episode is to show, where there is one."""
        wanted = self.fingerprints.get(index, {})
        return {module: self.known[digest].event_id for module, digest in wanted.items() if digest in self.known}


class RunPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is to do and why: the work that is left, episodes that are alike once.

    `episodes` counts those that were asked for. `left_out`: module → episodes that lack the module it follows.
    `estimated_calls` is an upper estimate of the calls of the work that asks. `discovers_vocabulary`: the vocabulary is
    to be asked for first, so that nothing behind it can be told. `own_vocabulary`: a person wrote or edited it, so that
    no log would give it to another machine.
    """

    episodes: int
    work: tuple[EpisodeWork, ...]
    lookup: AnnotationLookup
    left_out: dict[str, tuple[int, ...]] = msgspec.field(default_factory=dict[str, tuple[int, ...]])
    estimated_calls: int = 0
    discovers_vocabulary: bool = False
    own_vocabulary: bool = False

    @property
    def episodes_to_ask(self) -> int:
        """The number of episodes for which a call is needed."""
        return sum(len(work.copies) for work in self.work if any(m.asks for m in work.modules.values()))

    @property
    def episodes_up_to_date(self) -> int:
        """The number of episodes for which nothing is left to do."""
        return self.episodes - sum(len(work.copies) for work in self.work)

    def count_by_module(self) -> dict[str, int]:
        """Count the episodes for which each module needs a call."""
        counts: Counter[str] = Counter()
        for work in self.work:
            for name, module in work.modules.items():
                counts[name] += len(work.copies) * module.asks
        return {name: count for name, count in counts.items() if count}

    def count_by_reason(self) -> dict[tuple[str, Reason], int]:
        """Count the episodes that are left, by module and reason."""
        counts: Counter[tuple[str, Reason]] = Counter()
        for work in self.work:
            for name, module in work.modules.items():
                counts[name, module.reason] += len(work.copies)
        return dict(counts)


def plan_work(
    records: Sequence[EpisodeRecord], makers: Mapping[str, ModuleFingerprints], log: Log, dataset: str
) -> RunPlan:
    """Plan a run over the episodes that were asked for: fingerprints that no annotation carries, unreadable footage."""
    lookup = find_annotations(records, makers, log, dataset)
    annotated = log.current()
    alike: dict[tuple[object, ...], list[EpisodeRecord]] = {}
    for record in records:
        # Episodes that nothing tells apart get the same rows, and are worked on once.
        same = (record.digest, record.task, record.signals_digest, *sorted(record.footage.items()))
        alike.setdefault((*same, *sorted(lookup.fingerprints[record.index].items())), []).append(record)
    work: list[EpisodeWork] = []
    for group in alike.values():
        first = group[0]
        modules = {
            name: module
            for name, maker in makers.items()
            if (module := _planned(first, maker, makers, lookup, (first.digest, name) in annotated))
        }
        if modules:
            work.append(EpisodeWork(record=first, modules=modules, copies=tuple(record.index for record in group)))
    left_out: dict[str, tuple[int, ...]] = {}
    for name, maker in makers.items():
        if maker.module.follows is not None and maker.module.follows not in makers:
            lacking = tuple(r.index for r in records if name not in lookup.fingerprints[r.index])
            if lacking:
                left_out[name] = lacking
    return RunPlan(episodes=len(records) if makers else 0, work=tuple(work), lookup=lookup, left_out=left_out)


def _planned(
    record: EpisodeRecord,
    maker: ModuleFingerprints,
    makers: Mapping[str, ModuleFingerprints],
    lookup: AnnotationLookup,
    annotated_before: bool,
) -> PlannedModule | None:
    """Plan one module for one episode; None where nothing is left to do, or the module it follows is missing."""
    fingerprint = lookup.fingerprints[record.index].get(maker.module.name)
    reason: Reason
    if record.error_of(maker.module.cameras_of(maker.cameras)) is not None:
        reason = "footage"
    elif fingerprint is None and maker.module.follows in makers:
        reason = "follows"
    elif fingerprint is not None and fingerprint not in lookup.known:
        reason = "changed" if annotated_before else "new"
    else:
        return None
    follows = lookup.follows[record.index].get(maker.module.name)
    return PlannedModule(fingerprint=fingerprint, reason=reason, follows=follows)


def notes_of_left_out(plan: RunPlan) -> list[str]:
    """Say for which episodes a module is left out, since the one it follows is off and never annotated them."""
    notes: list[str] = []
    for name, lacking in plan.left_out.items():
        follows, have = module_named(name).follows, "has" if len(lacking) == 1 else "have"
        hint = f"--{follows}.enabled=true makes it"
        notes.append(f"{name}: left out, {spell_episodes(lacking)} {have} no {follows} in the log\nhint: {hint}")
    return notes


def find_annotations(
    records: Sequence[EpisodeRecord], makers: Mapping[str, ModuleFingerprints], log: Log, dataset: str
) -> AnnotationLookup:
    """Compute the fingerprints of some episodes, as far as the log allows, and look up the annotations that carry them.

    A module that follows another one depends on that one's rows: its fingerprint is known only once those are.
    """
    first = [module for module in all_modules() if module.name in makers and module.follows is None]
    later = [module for module in all_modules() if module.name in makers and module.follows is not None]
    digests = {record.index: {m.name: makers[m.name].fingerprint(record) for m in first} for record in records}
    known = log.recipes({digest for modules in digests.values() for digest in modules.values()})
    follows: dict[int, dict[str, Digest]] = {record.index: {} for record in records}
    for module in later:
        assert module.follows is not None
        if module.follows in makers:
            upstream = {
                record.index: known[digest]
                for record in records
                if (digest := digests[record.index].get(module.follows)) in known and digest is not None
            }
        else:
            # That module is off: its rows are those of each episode's own shard.
            in_shards = annotations_in_shards(records, module.follows, log, dataset)
            upstream = {
                index: CachedAnnotation(event_id, rows_digest(annotation))
                for (index, event_id), annotation in zip(
                    in_shards.items(), log.annotations(list(in_shards.values())), strict=True
                )
            }
        for record in records:
            if record.index in upstream:
                annotation = upstream[record.index]
                digests[record.index][module.name] = makers[module.name].fingerprint(record, annotation.rows_digest)
                follows[record.index][module.name] = annotation.event_id
        known |= log.recipes({modules[module.name] for modules in digests.values() if module.name in modules})
    return AnnotationLookup(fingerprints=digests, follows=follows, known=known)


def annotations_in_shards(records: Sequence[EpisodeRecord], module: str, log: Log, dataset: str) -> dict[int, Digest]:
    """Find the event of a module's annotation that each episode's own shard was last written from, by episode index.

    Another episode with the same motion may have another task, and so may another dataset in the same log.
    """
    shards = fold_shards(log.shards_written(), dataset)
    events: dict[int, Digest] = {}
    for record in records:
        written = shards.get(record.shard)
        alike = [episode for episode in written.episodes if episode.episode == record.digest] if written else []
        in_place = next((episode for episode in alike if episode.start == record.start), alike[0] if alike else None)
        if in_place is not None and module in in_place.annotations:
            events[record.index] = in_place.annotations[module]
    return events


def restated_annotations(
    records: Sequence[EpisodeRecord], lookup: AnnotationLookup, log: Log, run_id: str
) -> list[EpisodeAnnotated]:
    """Return anew the annotations of an earlier run that a later run with other settings has replaced since.

    The newest annotation of an episode is the current one, so what this run's settings name must be recorded again.
    """
    current = log.current()
    wanted: dict[tuple[Digest, str], set[Digest]] = {}
    for record in records:
        for module, fingerprint in lookup.fingerprints[record.index].items():
            wanted.setdefault((record.digest, module), set()).add(fingerprint)
    replaced = [
        lookup.known[fingerprint].event_id
        for place, digests in wanted.items()
        for fingerprint in sorted(digests)
        if fingerprint in lookup.known and (newest := current.get(place)) and newest.recipe not in digests
    ]
    return [msgspec.structs.replace(e, recorded_at=utc_now(), run_id=run_id) for e in log.annotations(replaced)]
