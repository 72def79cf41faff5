"""A run: its settings, prompts and dataset, read and checked before the log is opened; and the record of its end."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from uuid import uuid4

import msgspec

from annotator import __version__
from annotator.config.load import parse_episodes, validated
from annotator.config.settings import SyncSettings
from annotator.dataset.cameras import CameraSelection, select_cameras
from annotator.dataset.linked_copy import refuse_overlap
from annotator.dataset.metadata import Dataset, open_dataset
from annotator.dataset.origin import read_source
from annotator.modules.base import Module
from annotator.modules.registry import all_modules, prompt_folders
from annotator.pipeline.run_stats import RunStats
from annotator.pipeline.validation_gate import load_usable_rules
from annotator.prompting.loader import Prompts, load_prompts
from annotator.provenance.lock import pinned_shards
from annotator.vlm.redact import shown_command, shown_endpoint, shown_values
from annotator.vlm.registry import model_of, reads_evidence
from annotator_store.keys import Model
from annotator_store.log.dataset_names import alike_at, name_in_log
from annotator_store.log.events import RunFinished, utc_now
from annotator_store.log.log import Log
from annotator_store.parquet.rewrite import language_digest_or_none
from annotator_store.validation.rules import Rule

Outcome = Literal["done", "incomplete", "interrupted", "failed"]


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs of one run. `modules` are those it runs; `notes` says why other enabled modules are left out."""

    run_id: str
    started_at: datetime
    settings: SyncSettings
    dataset: Dataset
    target_root: Path
    episodes: frozenset[int]
    prompts: Prompts
    model: Model
    cameras: CameraSelection
    modules: tuple[Module, ...]
    notes: tuple[str, ...]
    rules: tuple[Rule, ...]

    @property
    def store(self) -> Path:
        """The folder of its log."""
        return self.settings.log_folder

    def named_in(self, log: Log) -> "Run":
        """Return the run with its dataset named as the log knows it; one that is new there is named by its path.

        Where the log lies inside it, its folder's name is enough; a dataset of the Hub has a name that is its own. A
        bucket may have brought other datasets' events, and a dataset that still stands at its path was not moved here.
        """
        writings = log.shards_written()
        names = {name for _, name, _ in log.seen_episodes()} | {event.dataset for _, event in writings}
        root, given = self.dataset.root, self.settings.repo_id
        alike = alike_at(
            self.target_root,
            self.dataset.shards,
            writings,
            lambda: pinned_shards(self.target_root),
            language_digest_or_none,
        )
        known = name_in_log(
            names, root, self.store, given=given, shared=self.settings.bucket is not None,
            alike=lambda name: not (Path(name).is_absolute() and Path(name).exists()) and alike(name),
        )  # fmt: skip
        # A log inside the dataset moves with it, so that the folder's name is enough.
        inside = self.store.resolve().is_relative_to(root.resolve())
        name = known or given or (self.dataset.name if inside else str(root.resolve()))
        return msgspec.structs.replace(self, dataset=msgspec.structs.replace(self.dataset, name=name))


def prepare(settings: SyncSettings) -> Run:
    """Read and check everything for which a run can be refused before its log is opened.

    Raises:
        UsageError, PromptError, DatasetError: the settings, a prompt or the dataset cannot be used.
    """
    settings = validated(settings)
    prompts = load_prompts(settings.prompts, prompt_folders())
    dataset, source = open_dataset(settings.root), read_source(settings.root)
    dataset = msgspec.structs.replace(dataset, revision=source.commit if source else None)
    if settings.output is not None:
        refuse_overlap(settings.root, settings.output)
    chosen = parse_episodes(settings.only_episodes, [e.index for e in dataset.episodes])
    enabled = [module for module in all_modules() if module.enabled(settings)]
    model, cameras = model_of(settings.vlm), select_cameras(dataset, settings, {m.cameras for m in enabled})
    modules, notes = _modules(enabled, dataset, model, cameras, settings)
    return Run(
        run_id=uuid4().hex,
        started_at=utc_now(),
        settings=settings,
        dataset=dataset,
        target_root=settings.output or settings.root,
        episodes=frozenset(chosen),
        prompts=prompts,
        model=model,
        cameras=cameras,
        modules=modules,
        notes=notes,
        rules=load_usable_rules(settings.validation.rules),
    )


def _modules(
    enabled: Sequence[Module], dataset: Dataset, model: Model, selection: CameraSelection, settings: SyncSettings
) -> tuple[tuple[Module, ...], tuple[str, ...]]:
    """Choose the modules that this dataset and this engine allow, and say what is left out."""
    notes = [f"{camera.key}: left out, it shows depth" for camera in dataset.cameras if camera.depth]
    modules: list[Module] = []
    for module in enabled:
        cameras = module.cameras_of(selection)
        if module.needs_pixels and not cameras:
            notes.append(f"{module.name}: left out, the dataset has no camera to ask about")
        elif module.needs_pixels and reads_evidence(model):
            notes.append(f"{module.name}: left out, the {settings.vlm.backend} engine sees no pixels")
        else:
            modules.append(module)
            if warning := module.warn(module.own_settings(settings), len(cameras), dataset.fps):
                notes.append(warning)
    if modules and not selection.all:
        notes.append("the dataset has no camera: prompts are text only")
    return tuple(modules), tuple(notes)


def shareable(settings: SyncSettings) -> SyncSettings:
    """Return the settings as they may be recorded, since a log is shared: without what may be a secret."""
    vlm = settings.vlm
    bases = None if vlm.api_base is None else ",".join(map(shown_endpoint, vlm.api_base.split(",")))
    command = None if vlm.serve_command is None else shown_command(vlm.serve_command)
    more = shown_values(vlm.engine_kwargs)
    shown = msgspec.structs.replace(vlm, api_base=bases, serve_command=command, engine_kwargs=more)
    return msgspec.structs.replace(settings, vlm=shown)


def record_run(run: Run, log: Log, stats: RunStats, engine: str, outcome: Outcome, elapsed_s: float) -> None:
    """Record how a run ended."""
    arguments: dict[str, Any] = msgspec.to_builtins(shareable(run.settings), enc_hook=str)
    if run.settings.prompts is not None:
        arguments["prompts"] = str(run.settings.prompts.absolute())  # whoever verifies stands elsewhere
    log.record(
        RunFinished(
            recorded_at=utc_now(),
            run_id=run.run_id,
            started_at=run.started_at,
            dataset=run.dataset.name,
            arguments=arguments,
            engine=engine,
            model_id=run.model.model_id,
            dataset_episodes=len(run.dataset.episodes),
            episodes=stats.episodes_total,
            episodes_skipped=stats.episodes_skipped,
            calls_answered=stats.calls.outcomes["answered"],
            calls_hit=stats.calls.outcomes["hit"],
            calls_failed=stats.calls.outcomes["failed"],
            calls_declined=stats.calls.outcomes["declined"],
            answers_rejected=stats.calls.outcomes["rejected"],
            answered_by_step=dict(stats.calls.answered_by_step),
            tokens_in=stats.calls.tokens_in,
            tokens_out=stats.calls.tokens_out,
            frames_decoded=stats.calls.frames_decoded,
            shards_written=stats.shards_written,
            elapsed_s=round(elapsed_s, 3),
            outcome=outcome,
            versions={"annotator": __version__},
            broken_rules=dict(stats.violations),
            quarantined=dict(stats.quarantined),
        )
    ).result()
