"""The recipe: everything a module's rows for an episode depend on, in one digest.

A recipe that is in the log has been followed; the module is then skipped for that episode, and nothing is rendered.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from annotator.config.flags import changed
from annotator.config.settings import SyncSettings
from annotator.dataset.episodes import CameraSelection, EpisodeRecord
from annotator.modules.base import Module
from annotator.prompting.loader import Prompts
from annotator.vlm.models import reads_evidence
from annotator_store.digests import Digest, Keyed, digest_struct
from annotator_store.keys import Model
from annotator_store.log.event_parts import SetupUsed


class AnnotationSetup(Keyed, frozen=True, kw_only=True):
    """What one module's rows depend on that is the same for every episode of a run."""

    tag_v = "setup.v1"
    module: str
    module_version: int
    settings: dict[str, Any]
    prompts: dict[str, Digest]
    model: Digest
    seed: int
    vocabulary: Digest | None


class Fingerprint(Keyed, frozen=True, kw_only=True):
    """What the rows of one module for one episode depend on.

    `footage` names each camera, digests what it saw, and gives the stored width and height in pixels.
    `upstream` digests the rows of the module it follows.
    """

    tag_v = "recipe.v2"
    setup: Digest
    episode: Digest
    footage: tuple[tuple[str, Digest, int, int], ...]
    evidence: Digest | None
    task: str
    upstream: Digest | None


class ModuleFingerprints(msgspec.Struct, frozen=True, kw_only=True):
    """Makes one module's recipes. `setup` digests what they share, `used` says it as annotations do."""

    module: Module
    cast: CameraSelection
    setup: Digest
    used: SetupUsed
    reads_evidence: bool

    def recipe(self, one: EpisodeRecord, upstream: Digest | None = None) -> Digest:
        """Digest the recipe for one episode."""
        recipe = Fingerprint(
            setup=self.setup,
            episode=one.digest,
            footage=tuple(
                (camera.key, one.footage[camera.key], camera.width_px, camera.height_px)
                for camera in self.module.cameras_of(self.cast)
                if camera.key in one.footage
            ),
            evidence=one.scanned.signals if self.reads_evidence else None,
            task=one.task,
            upstream=upstream,
        )
        return digest_struct(recipe)


def fingerprints(
    modules: Iterable[Module],
    settings: SyncSettings,
    cast: CameraSelection,
    prompts: Prompts,
    model: Model,
    vocabulary: Digest | None,
) -> dict[str, ModuleFingerprints]:
    """Gather what each module's rows depend on, by the module's name."""
    setups = [
        (module, _setup(module, settings, prompts, model, vocabulary if module.uses_vocabulary else None))
        for module in modules
    ]
    return {
        module.name: ModuleFingerprints(
            module=module,
            cast=cast,
            setup=digest_struct(setup),
            used=_used(setup, changed(settings, module.depends_on(settings))),
            reads_evidence=reads_evidence(model) or module.uses_signals(module.own_settings(settings)),
        )
        for module, setup in setups
    }


def _setup(
    module: Module, settings: SyncSettings, prompts: Prompts, model: Model, vocabulary: Digest | None
) -> AnnotationSetup:
    return AnnotationSetup(
        module=module.name,
        module_version=module.version,
        settings=module.setup_settings(settings),
        prompts=prompts.digests(module.steps),
        model=digest_struct(model),
        seed=settings.seed,
        vocabulary=vocabulary,
    )


def _used(setup: AnnotationSetup, settings: dict[str, Any]) -> SetupUsed:
    return SetupUsed(
        seed=setup.seed,
        model=setup.model,
        prompts=setup.prompts,
        vocabulary=setup.vocabulary,
        module_version=setup.module_version,
        settings=settings,
    )
