"""The recipe: everything a module's rows for an episode depend on, in one digest.

A recipe that is in the log has been followed; the module is then skipped for that episode, and nothing is rendered.
"""

from typing import Any

import msgspec

from annotator.config import SyncSettings
from annotator.models import reads_evidence
from annotator.modules import plan
from annotator.prompts import Prompts
from store.digest import Digest, Keyed, digest_struct
from store.keys import Model


class Recipe(Keyed, frozen=True, kw_only=True):
    """What the rows of one module for one episode depend on."""

    tag_v = "recipe.v1"
    episode: Digest
    footage: Digest | None
    evidence: Digest | None
    task: str
    module: str
    module_version: int
    settings: dict[str, Any]
    prompts: dict[str, Digest]
    model: Digest
    seed: int


class Kitchen(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a recipe that are the same for every episode of a run."""

    module: str
    module_version: int
    settings: dict[str, Any]
    prompts: dict[str, Digest]
    model: Digest
    seed: int
    reads_evidence: bool

    def recipe(self, *, episode: Digest, footage: Digest | None, signals: Digest, task: str) -> Digest:
        """Digest one episode's recipe."""
        recipe = Recipe(
            episode=episode,
            footage=footage,
            evidence=signals if self.reads_evidence else None,
            task=task,
            module=self.module,
            module_version=self.module_version,
            settings=self.settings,
            prompts=self.prompts,
            model=self.model,
            seed=self.seed,
        )
        return digest_struct(recipe)


def plan_kitchen(settings: SyncSettings, prompts: Prompts, model: Model) -> Kitchen:
    """Gather what the `plan` module's rows depend on."""
    values = msgspec.to_builtins(settings.plan)
    del values["enabled"]
    return Kitchen(
        module=plan.NAME,
        module_version=plan.VERSION,
        settings=values,
        prompts=prompts.digests(plan.STEPS),
        model=digest_struct(model),
        seed=settings.seed,
        reads_evidence=reads_evidence(model),
    )
