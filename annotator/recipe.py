"""The recipe: everything a module's rows for an episode depend on, in one digest.

A recipe that is in the log has been followed; the module is then skipped for that episode, and nothing is rendered.
"""

from collections.abc import Iterable
from typing import Any

import msgspec

from annotator.models import reads_evidence
from annotator.prompts import Prompts
from annotator.registry import Module
from annotator.settings import SyncSettings
from annotator.survey import Cast, Surveyed
from store.digest import Digest, Keyed, digest_struct
from store.keys import Model


class Recipe(Keyed, frozen=True, kw_only=True):
    """What the rows of one module for one episode depend on.

    `footage` names each camera, digests what it saw, and gives the stored width and height in pixels.
    `upstream` digests the rows of the module it follows.
    """

    tag_v = "recipe.v2"
    episode: Digest
    footage: tuple[tuple[str, Digest, int, int], ...]
    evidence: Digest | None
    task: str
    vocabulary: Digest | None
    upstream: Digest | None
    module: str
    module_version: int
    settings: dict[str, Any]
    prompts: dict[str, Digest]
    model: Digest
    seed: int


class Kitchen(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of one module's recipes that are the same for every episode of a run."""

    module: Module
    cast: Cast
    settings: dict[str, Any]
    prompts: dict[str, Digest]
    model: Digest
    seed: int
    reads_evidence: bool
    vocabulary: Digest | None

    def recipe(self, one: Surveyed, upstream: Digest | None = None) -> Digest:
        """Digest the recipe for one episode."""
        cameras = self.module.cameras(self.cast)
        recipe = Recipe(
            episode=one.digest,
            footage=tuple(
                (camera.key, one.footage[camera.key], camera.width_px, camera.height_px)
                for camera in cameras
                if camera.key in one.footage
            ),
            evidence=one.scanned.signals if self.reads_evidence else None,
            task=one.task,
            vocabulary=self.vocabulary,
            upstream=upstream,
            module=self.module.name,
            module_version=self.module.version,
            settings=self.settings,
            prompts=self.prompts,
            model=self.model,
            seed=self.seed,
        )
        return digest_struct(recipe)


def kitchens(
    modules: Iterable[Module],
    settings: SyncSettings,
    cast: Cast,
    prompts: Prompts,
    model: Model,
    vocabulary: Digest | None,
) -> dict[str, Kitchen]:
    """Gather what each module's rows depend on, by the module's name."""
    return {
        module.name: Kitchen(
            module=module,
            cast=cast,
            settings=module.dials(settings),
            prompts=prompts.digests(module.steps),
            model=digest_struct(model),
            seed=settings.seed,
            reads_evidence=reads_evidence(model) or (module.name == "plan" and settings.plan.gripper_hints),
            vocabulary=vocabulary if module.name == "plan" else None,
        )
        for module in modules
    }
