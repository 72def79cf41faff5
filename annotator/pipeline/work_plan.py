"""The agenda: which recipe each episode is to follow in each module, which were followed before, and what is left."""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from annotator.config.load import spell_episodes
from annotator.dataset.episodes import CameraSelection, EpisodeRecord
from annotator.dataset.metadata import Camera
from annotator.modules.registry import all_modules
from annotator.pipeline.fingerprints import ModuleFingerprints
from annotator_store.digests import Digest
from annotator_store.log.events import EpisodeAnnotated, utc_now
from annotator_store.log.folds import rows_digest
from annotator_store.log.log import CachedAnnotation, Log
from annotator_store.log.shard_history import fold_shards


class EpisodeWork(msgspec.Struct, frozen=True, kw_only=True):
    """What is left to do for one episode; `copies` episodes of the dataset are alike and share it.

    `todo`: module → its recipe, None where that depends on rows of another module that is itself to be done.
    `upstream`: module → the annotation whose rows it follows.
    """

    surveyed: EpisodeRecord
    todo: dict[str, Digest | None]
    upstream: dict[str, Digest]
    copies: tuple[int, ...]


class Agenda(msgspec.Struct, frozen=True, kw_only=True):
    """`recipes`: episode index → module → recipe. `upstream`: the same → the annotation it follows."""

    recipes: dict[int, dict[str, Digest]]
    upstream: dict[int, dict[str, Digest]]
    followed: dict[Digest, CachedAnnotation]

    def sources(self, index: int) -> dict[str, Digest]:
        """The annotation of each module that one episode is to show, where there is one."""
        mine = self.recipes.get(index, {})
        return {module: self.followed[recipe].event_id for module, recipe in mine.items() if recipe in self.followed}


def agenda_of(
    asked: Sequence[EpisodeRecord], kitchens: Mapping[str, ModuleFingerprints], log: Log, dataset: str
) -> Agenda:
    """Work out what the episodes that were asked for are to follow, as far as it can be told from the log."""
    first = [module for module in all_modules() if module.name in kitchens and module.follows is None]
    later = [module for module in all_modules() if module.name in kitchens and module.follows is not None]
    recipes = {one.episode.index: {m.name: kitchens[m.name].recipe(one) for m in first} for one in asked}
    followed = log.recipes({recipe for mine in recipes.values() for recipe in mine.values()})
    upstream: dict[int, dict[str, Digest]] = {one.episode.index: {} for one in asked}
    for module in later:
        assert module.follows is not None
        before = _before(asked, module.follows, recipes, followed, log, dataset, inside=module.follows in kitchens)
        for one in asked:
            index = one.episode.index
            if index in before:
                recipes[index][module.name] = kitchens[module.name].recipe(one, before[index].rows_digest)
                upstream[index][module.name] = before[index].event_id
        followed |= log.recipes({mine[module.name] for mine in recipes.values() if module.name in mine})
    return Agenda(recipes=recipes, upstream=upstream, followed=followed)


def _before(
    asked: Sequence[EpisodeRecord],
    module: str,
    recipes: Mapping[int, Mapping[str, Digest]],
    followed: Mapping[Digest, CachedAnnotation],
    log: Log,
    dataset: str,
    *,
    inside: bool,
) -> dict[int, CachedAnnotation]:
    """Find the annotation of `module` that each episode has: this run's own, or the one it was given if it is off."""
    if inside:
        mine = {one.episode.index: followed.get(recipes[one.episode.index].get(module, Digest(""))) for one in asked}
        return {index: found for index, found in mine.items() if found}
    stands = standing(asked, module, log, dataset)
    annotations = log.annotations(list(stands.values()))
    return {
        index: CachedAnnotation(event_id, rows_digest(annotation))
        for (index, event_id), annotation in zip(stands.items(), annotations, strict=True)
    }


def standing(asked: Sequence[EpisodeRecord], module: str, log: Log, dataset: str) -> dict[int, Digest]:
    """Find the annotation of `module` that stands in each episode's own shard, by episode index.

    Another episode with the same motion may have another task, and so may another dataset in the same log.
    """
    shards = fold_shards(log.shards_written(), dataset)
    found: dict[int, Digest] = {}
    for one in asked:
        record = shards.get(one.episode.shard)
        alike = [e for e in record.episodes if e.episode == one.digest] if record else []
        here = next((e for e in alike if e.start == one.scanned.start), alike[0] if alike else None)
        if here is not None and module in here.annotations:
            found[one.episode.index] = here.annotations[module]
    return found


def list_work(
    asked: Sequence[EpisodeRecord], kitchens: Mapping[str, ModuleFingerprints], agenda: Agenda, cast: CameraSelection
) -> list[EpisodeWork]:
    """List what is left: recipes never followed, and footage that cannot be read. Episodes that are alike come once."""
    alike: dict[tuple[object, ...], list[EpisodeRecord]] = {}
    for one in asked:
        same = (one.digest, one.task, one.scanned.signals, *sorted(one.footage.items()))
        alike.setdefault((*same, *sorted(agenda.recipes[one.episode.index].items())), []).append(one)
    jobs: list[EpisodeWork] = []
    for group in alike.values():
        one = group[0]
        index = one.episode.index
        todo = dict(_left(one, kitchens, agenda, cast))
        if todo:
            copies = tuple(other.episode.index for other in group)
            jobs.append(EpisodeWork(surveyed=one, todo=todo, upstream=agenda.upstream[index], copies=copies))
    return jobs


def _left(
    one: EpisodeRecord, kitchens: Mapping[str, ModuleFingerprints], agenda: Agenda, cast: CameraSelection
) -> Iterable[tuple[str, Digest | None]]:
    mine = agenda.recipes[one.episode.index]
    for name, kitchen in kitchens.items():
        recipe = mine.get(name)
        waits = recipe is None and kitchen.module.follows in kitchens
        stale = recipe is not None and recipe not in agenda.followed
        cameras: Sequence[Camera] = kitchen.module.cameras_of(cast)
        if waits or stale or one.trouble(cameras) is not None:
            yield name, recipe


def left_out(
    asked: Sequence[EpisodeRecord], kitchens: Mapping[str, ModuleFingerprints], agenda: Agenda
) -> Iterable[str]:
    """Say for which episodes a module is left out, since the one it follows is off and never annotated them."""
    for module in (kitchen.module for kitchen in kitchens.values()):
        if module.follows is None or module.follows in kitchens:
            continue
        lacking = [one.episode.index for one in asked if module.name not in agenda.recipes[one.episode.index]]
        if lacking:
            where, have = spell_episodes(lacking), "has" if len(lacking) == 1 else "have"
            hint = f"--{module.follows}.enabled=true makes it"
            yield f"{module.name}: left out, {where} {have} no {module.follows} in the log\nhint: {hint}"


def overruled(asked: Sequence[EpisodeRecord], agenda: Agenda, log: Log, run_id: str) -> list[EpisodeAnnotated]:
    """Say again what an earlier run found, where a later run with other settings has overruled it since."""
    current = log.current()
    wanted: dict[tuple[Digest, str], set[Digest]] = {}
    for one in asked:
        for module, recipe in agenda.recipes[one.episode.index].items():
            wanted.setdefault((one.digest, module), set()).add(recipe)
    again = [
        agenda.followed[recipe].event_id
        for place, recipes in wanted.items()
        for recipe in sorted(recipes)
        if recipe in agenda.followed and (held := current.get(place)) and held.recipe not in recipes
    ]
    return [msgspec.structs.replace(e, recorded_at=utc_now(), run_id=run_id) for e in log.annotations(again)]
