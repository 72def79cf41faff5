"""Setups: what the rows in the shards were made with, where a dataset's episodes were not all made alike.

A lock names the setup of most episodes. Setups that differ from it are listed beside it, by module.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from annotator.modules.registry import SHIPPED
from annotator_store.digests import Digest, canonical, digest_struct
from annotator_store.keys import Model
from annotator_store.log.events import EpisodeAnnotated, SetupUsed, VocabularyDiscovered

VOCABULARY = "vocabulary"
"""Used like a module's name, for what the vocabulary in use was discovered with."""
_COMMON = ("retry", "system")
"""Prompts that belong to every step."""


class PinnedModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model that was asked: its digest, as in keys, and what the digest covers, where the log says it."""

    digest: Digest
    model_id: str
    revision: str | None
    settings: dict[str, Any]

    @classmethod
    def of(cls, model: Model) -> "PinnedModel":
        """Describe a model."""
        fields: dict[str, Any] = msgspec.json.decode(canonical(model))
        model_id, revision = fields.pop("model_id"), fields.pop("revision")
        return cls(digest=digest_struct(model), model_id=model_id, revision=revision, settings=fields)

    @classmethod
    def described(cls, digest: Digest, model_id: str, descriptions: Mapping[Digest, str]) -> "PinnedModel":
        """Describe a model by its canonical JSON, or by `model_id` alone where the log does not have that."""
        if digest in descriptions:
            return cls.of(msgspec.json.decode(descriptions[digest], type=Model))
        return cls(digest=digest, model_id=model_id, revision=None, settings={})


class PinnedSetup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a module's rows were made with. Earlier releases did not record all of it: the seed, or the version."""

    seed: int | None
    model: PinnedModel | None
    prompts: dict[str, Digest]
    vocabulary: Digest | None
    version: int | None
    settings: dict[str, Any]

    @classmethod
    def of(
        cls, setup: SetupUsed, model_id: str, steps: set[str] | None, descriptions: Mapping[Digest, str]
    ) -> "PinnedSetup":
        """Pin a recorded setup, with the prompts of these steps; all of them where `steps` is None."""
        return cls(
            seed=setup.seed,
            model=PinnedModel.described(setup.model, model_id, descriptions),
            prompts={s: digest for s, digest in sorted(setup.prompts.items()) if steps is None or s in steps},
            vocabulary=setup.vocabulary,
            version=setup.module_version,
            settings=setup.settings,
        )

    @classmethod
    def of_call(cls, call: "AskedCall | None", model_id: str, descriptions: Mapping[Digest, str]) -> "PinnedSetup":
        """Pin what one of its calls tells of an annotation whose setup was not recorded."""
        model = PinnedModel.described(call.model, model_id, descriptions) if call else None
        seed = call.seed if call else None
        return cls(seed=seed, model=model, prompts={}, vocabulary=None, version=None, settings={})


class OtherSetup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the rows of one module were made with, and in how many episodes."""

    module: str
    episodes: int
    made: PinnedSetup


class AskedCall(msgspec.Struct, frozen=True):
    """What an answered call tells of a setup: its step, its seed, and the digest of the model."""

    step: str
    seed: int
    model: Digest


class DominantSetup(msgspec.Struct, frozen=True, kw_only=True):
    """The setup of most episodes, and the `others`. `modules`: name → version; `settings`: module → flag → value."""

    seed: int | None
    model: PinnedModel | None
    prompts: dict[str, Digest]
    vocabulary: Digest | None
    modules: dict[str, int | None]
    settings: dict[str, dict[str, Any]]
    others: tuple[OtherSetup, ...]


class SetupCounts:
    """Counts the episodes in which each setup is in use, by module."""

    def __init__(self) -> None:
        self._recorded: Counter[tuple[str, str, bytes]] = Counter()
        # Annotations of earlier releases have no setup: one of their calls stands for it.
        self._unrecorded: Counter[tuple[str, str, Digest | None]] = Counter()

    def add(self, event: EpisodeAnnotated) -> None:
        """Count the annotation of one more episode."""
        if event.setup is not None:
            self._recorded[event.module, event.model_id, canonical(event.setup)] += 1
        else:
            self._unrecorded[event.module, event.model_id, min(event.calls, default=None)] += 1

    def models(self, calls: Mapping[Digest, AskedCall]) -> set[Digest]:
        """Return the digests of the models that were asked."""
        recorded = {msgspec.json.decode(setup, type=SetupUsed).model for _, _, setup in self._recorded}
        return recorded | {calls[call].model for _, _, call in self._unrecorded if call is not None and call in calls}

    def list_setups(self, calls: Mapping[Digest, AskedCall], descriptions: Mapping[Digest, str]) -> list[OtherSetup]:
        """Return every setup in use with its number of episodes, and only the prompts of steps that were asked."""
        steps = {*_COMMON, *(call.step for call in calls.values())} if calls else set[str]()
        # Setups that differ in other prompts alone are the same here, so they are counted in their canonical form.
        counts: Counter[tuple[str, bytes]] = Counter()
        for (module, model_id, text), episodes in self._recorded.items():
            made = PinnedSetup.of(msgspec.json.decode(text, type=SetupUsed), model_id, steps, descriptions)
            counts[module, canonical(made)] += episodes
        for (module, model_id, call), episodes in self._unrecorded.items():
            made = PinnedSetup.of_call(calls.get(call) if call else None, model_id, descriptions)
            counts[module, canonical(made)] += episodes
        return [
            OtherSetup(module=module, episodes=episodes, made=msgspec.json.decode(made, type=PinnedSetup))
            for (module, made), episodes in sorted(counts.items())
        ]


def discovery_setups(
    discoveries: Iterable[tuple[Digest, VocabularyDiscovered]],
    vocabularies: Collection[Digest],
    descriptions: Mapping[Digest, str],
) -> list[OtherSetup]:
    """Return what each of these vocabularies was first discovered with; one that a person wrote or edited has none."""
    first: dict[Digest, VocabularyDiscovered] = {}
    for _, event in sorted(discoveries, key=lambda item: (item[1].recorded_at, item[0])):
        if event.vocabulary in vocabularies and event.setup is not None:
            first.setdefault(event.vocabulary, event)
    return [
        OtherSetup(
            module=VOCABULARY, episodes=len(event.episodes), made=PinnedSetup.of(event.setup, "", None, descriptions)
        )
        for event in first.values()
        if event.setup is not None
    ]


def dominant_setup(variants: Sequence[OtherSetup]) -> DominantSetup:
    """Let the setup of most episodes lead: the plan's, or that of the first module there is; list what it is not."""
    # Third-party modules come last, installed here or not: a lock is the same on every machine.
    order = [module.name for module in SHIPPED]

    def place(name: str) -> tuple[bool, int, str]:
        return name == VOCABULARY, order.index(name) if name in order else len(order), name

    held = {one.module for one in variants if one.made.vocabulary is not None}
    main = {
        name: max(mine, key=lambda one: (one.episodes, canonical(one.made))).made
        for name in sorted({one.module for one in variants}, key=place)
        if (mine := [one for one in variants if one.module == name])
    }
    lead = next(iter(main.values()), None)
    alike = {name: made for name, made in main.items() if lead is not None and _same_run(lead, made)}
    found = DominantSetup(
        seed=lead.seed if lead else None,
        model=lead.model if lead else None,
        prompts=dict(sorted(item for made in alike.values() for item in made.prompts.items())),
        vocabulary=next((made.vocabulary for name, made in main.items() if name in held), None),
        modules={name: made.version for name, made in main.items()},
        settings={name: made.settings for name, made in alike.items() if made.settings},
        others=(),
    )
    return msgspec.structs.replace(found, others=tuple(one for one in variants if not _says(found, one, held)))


def _same_run(lead: PinnedSetup, made: PinnedSetup) -> bool:
    common = all(lead.prompts.get(step) == made.prompts.get(step) for step in _COMMON)
    return (lead.seed, lead.model) == (made.seed, made.model) and common


def _says(lead: DominantSetup, one: OtherSetup, held: Collection[str]) -> bool:
    """Say whether the setup that leads is this one, as far as it goes for the module."""
    made = one.made
    return (
        (lead.seed, lead.model) == (made.seed, made.model)
        and made.prompts.items() <= lead.prompts.items()
        and (one.module not in held or made.vocabulary == lead.vocabulary)
        and lead.modules[one.module] == made.version
        and lead.settings.get(one.module, {}) == made.settings
    )
