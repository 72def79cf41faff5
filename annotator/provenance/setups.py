"""Setups: what the rows in the shards were made with, told apart where a dataset's episodes were not all made alike.

One setup leads, that of most episodes. What it does not say of other episodes stands beside it, by module.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from annotator.modules.registry import MODULES
from annotator_store.digests import Digest, canonical, digest_struct
from annotator_store.keys import Model
from annotator_store.log.events import EpisodeAnnotated, SetupUsed, VocabularyDiscovered

VOCABULARY = "vocabulary"
"""Stands where a module's name does, for what the vocabulary in use was found with."""
_COMMON = ("retry", "system")
"""Prompts that belong to every step."""


class PinnedModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model that was asked: its digest, as keys have it, and what the digest covers, where the log says it."""

    digest: Digest
    model_id: str
    revision: str | None
    settings: dict[str, Any]


class PinnedSetup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a module's rows were made with. An earlier release did not note all of it: the seed, or the version."""

    seed: int | None
    model: PinnedModel | None
    prompts: dict[str, Digest]
    vocabulary: Digest | None
    version: int | None
    settings: dict[str, Any]


class OtherSetup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the rows of one module were made with in so many episodes."""

    module: str
    episodes: int
    made: PinnedSetup


class AskedCall(msgspec.Struct, frozen=True):
    """What is known of an answered call: its step, and with which seed which model was asked."""

    step: str
    seed: int
    model: Digest


class DominantSetup(msgspec.Struct, frozen=True, kw_only=True):
    """What most episodes were made with, and the `others`. `modules`: name → version; `settings` by module."""

    seed: int | None
    model: PinnedModel | None
    prompts: dict[str, Digest]
    vocabulary: Digest | None
    modules: dict[str, int | None]
    settings: dict[str, dict[str, Any]]
    others: tuple[OtherSetup, ...]


class SetupCounts:
    """Counts, by module, in how many episodes which setup is in use."""

    def __init__(self) -> None:
        self._noted: Counter[tuple[str, str, bytes]] = Counter()
        self._older: Counter[tuple[str, str, Digest | None]] = Counter()

    def add(self, event: EpisodeAnnotated) -> None:
        """Count the annotation of one more episode."""
        if event.setup is not None:
            self._noted[event.module, event.model_id, canonical(event.setup)] += 1
        else:
            self._older[event.module, event.model_id, min(event.calls, default=None)] += 1

    def models(self, calls: Mapping[Digest, AskedCall]) -> set[Digest]:
        """The models that were asked."""
        noted = {msgspec.json.decode(setup, type=SetupUsed).model for _, _, setup in self._noted}
        return noted | {calls[call].model for _, _, call in self._older if call is not None and call in calls}

    def variants(self, calls: Mapping[Digest, AskedCall], described: Mapping[Digest, str]) -> list[OtherSetup]:
        """Give every setup in use, with only the prompts of steps that were asked."""
        steps = {*_COMMON, *(call.step for call in calls.values())} if calls else set[str]()
        counts: Counter[tuple[str, bytes]] = Counter()
        for (module, name, text), episodes in self._noted.items():
            made = _made(msgspec.json.decode(text, type=SetupUsed), name, steps, described)
            counts[module, canonical(made)] += episodes
        for (module, name, call), episodes in self._older.items():
            counts[module, canonical(_made_before(calls.get(call) if call else None, name, described))] += episodes
        return [OtherSetup(module=m, episodes=n, made=_decoded(made)) for (m, made), n in sorted(counts.items())]


def found_with(
    discoveries: Iterable[tuple[Digest, VocabularyDiscovered]],
    vocabularies: Collection[Digest],
    described: Mapping[Digest, str],
) -> list[OtherSetup]:
    """Give what each of these vocabularies was first found with; one that a person wrote, or edited, has nothing."""
    first: dict[Digest, VocabularyDiscovered] = {}
    for _, event in sorted(discoveries, key=lambda item: (item[1].recorded_at, item[0])):
        if event.vocabulary in vocabularies and event.setup is not None:
            first.setdefault(event.vocabulary, event)
    return [
        OtherSetup(module=VOCABULARY, episodes=len(event.episodes), made=_made(event.setup, "", None, described))
        for event in first.values()
        if event.setup is not None
    ]


def dominant_setup(variants: Sequence[OtherSetup]) -> DominantSetup:
    """Let the setup of most episodes lead: the plan's, or that of the first module there is; list what it is not."""
    order = [*(module.name for module in MODULES), VOCABULARY]
    main = {
        name: max(mine, key=lambda one: (one.episodes, canonical(one.made))).made
        for name in sorted({one.module for one in variants}, key=lambda name: (*_place(order, name), name))
        if (mine := [one for one in variants if one.module == name])
    }
    lead = next(iter(main.values()), None)
    alike = {name: made for name, made in main.items() if lead is not None and _same_run(lead, made)}
    found = DominantSetup(
        seed=lead.seed if lead else None,
        model=lead.model if lead else None,
        prompts=dict(sorted(item for made in alike.values() for item in made.prompts.items())),
        vocabulary=main["plan"].vocabulary if "plan" in main else None,
        modules={name: made.version for name, made in main.items()},
        settings={name: made.settings for name, made in alike.items() if made.settings},
        others=(),
    )
    return msgspec.structs.replace(found, others=tuple(one for one in variants if not _says(found, one)))


def pinned(model: Model) -> PinnedModel:
    """Describe a model as a lock does."""
    fields: dict[str, Any] = msgspec.json.decode(canonical(model))
    model_id, revision = fields.pop("model_id"), fields.pop("revision")
    return PinnedModel(digest=digest_struct(model), model_id=model_id, revision=revision, settings=fields)


def _place(order: Sequence[str], name: str) -> tuple[int]:
    return (order.index(name) if name in order else len(order),)


def _same_run(lead: PinnedSetup, made: PinnedSetup) -> bool:
    common = all(lead.prompts.get(step) == made.prompts.get(step) for step in _COMMON)
    return (lead.seed, lead.model) == (made.seed, made.model) and common


def _says(lead: DominantSetup, one: OtherSetup) -> bool:
    """Say whether the setup that leads is this one, as far as it goes for the module."""
    made = one.made
    return (
        (lead.seed, lead.model) == (made.seed, made.model)
        and made.prompts.items() <= lead.prompts.items()
        and (one.module != "plan" or made.vocabulary == lead.vocabulary)
        and lead.modules[one.module] == made.version
        and lead.settings.get(one.module, {}) == made.settings
    )


def _made(setup: SetupUsed, model_id: str, steps: set[str] | None, described: Mapping[Digest, str]) -> PinnedSetup:
    return PinnedSetup(
        seed=setup.seed,
        model=_model(setup.model, model_id, described),
        prompts={s: digest for s, digest in sorted(setup.prompts.items()) if steps is None or s in steps},
        vocabulary=setup.vocabulary,
        version=setup.module_version,
        settings=setup.settings,
    )


def _made_before(call: AskedCall | None, model_id: str, described: Mapping[Digest, str]) -> PinnedSetup:
    """What can be told where no setup was noted: what one of its calls says."""
    model = _model(call.model, model_id, described) if call else None
    return PinnedSetup(
        seed=call.seed if call else None, model=model, prompts={}, vocabulary=None, version=None, settings={}
    )


def _model(digest: Digest, model_id: str, described: Mapping[Digest, str]) -> PinnedModel:
    if digest in described:
        return pinned(msgspec.json.decode(described[digest], type=Model))
    return PinnedModel(digest=digest, model_id=model_id, revision=None, settings={})


def _decoded(made: bytes) -> PinnedSetup:
    return msgspec.json.decode(made, type=PinnedSetup)
