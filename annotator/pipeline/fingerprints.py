"""Fingerprints: everything a module's rows for an episode depend on, in one digest.

A fingerprint that an annotation in the log carries (as its `recipe`) needs no work: the module is then skipped for that
episode, and nothing is rendered.
"""

from collections.abc import Iterable

import msgspec

from annotator.config.flags import changed
from annotator.config.settings import SyncSettings
from annotator.dataset.cameras import CameraSelection
from annotator.dataset.episode_record import EpisodeRecord
from annotator.modules.base import Module
from annotator.prompting.loader import Prompts
from annotator.vlm.registry import reads_evidence
from annotator_store.digests import Digest, digest_struct
from annotator_store.keys import AnnotationSetup, Fingerprint, Model
from annotator_store.log.events import SetupUsed


class ModuleFingerprints(msgspec.Struct, frozen=True, kw_only=True):
    """Makes one module's fingerprints. `setup` digests what they share, `used` says it as annotations do."""

    module: Module
    cameras: CameraSelection
    setup: Digest
    used: SetupUsed
    reads_evidence: bool

    def fingerprint(self, record: EpisodeRecord, upstream: Digest | None = None) -> Digest:
        """Digest everything the module's rows for one episode depend on."""
        fingerprint = Fingerprint(
            setup=self.setup,
            episode=record.digest,
            footage=tuple(
                (camera.key, record.footage[camera.key], camera.width_px, camera.height_px)
                for camera in self.module.cameras_of(self.cameras)
                if camera.key in record.footage
            ),
            evidence=record.signals_digest if self.reads_evidence else None,
            task=record.task,
            upstream=upstream,
        )
        return digest_struct(fingerprint)


def fingerprints(
    modules: Iterable[Module],
    settings: SyncSettings,
    cameras: CameraSelection,
    prompts: Prompts,
    model: Model,
    vocabulary: Digest | None,
) -> dict[str, ModuleFingerprints]:
    """Gather what each module's rows depend on, by the module's name."""
    makers: dict[str, ModuleFingerprints] = {}
    for module in modules:
        setup = AnnotationSetup(
            module=module.name,
            module_version=module.version,
            settings=module.setup_settings(settings),
            prompts=prompts.digests(module.steps),
            model=digest_struct(model),
            seed=settings.seed,
            vocabulary=vocabulary if module.uses_vocabulary else None,
        )
        makers[module.name] = ModuleFingerprints(
            module=module,
            cameras=cameras,
            setup=digest_struct(setup),
            used=SetupUsed(
                seed=setup.seed,
                model=setup.model,
                prompts=setup.prompts,
                vocabulary=setup.vocabulary,
                module_version=setup.module_version,
                settings=changed(settings, module.depends_on(settings)),
            ),
            reads_evidence=reads_evidence(model) or module.uses_signals(module.own_settings(settings)),
        )
    return makers
