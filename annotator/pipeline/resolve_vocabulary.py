"""Resolve the vocabulary before any other call: from its file, else from a discovery in the log, else discover it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import msgspec

from annotator.config.flags import changed
from annotator.config.load import spell_episodes
from annotator.dataset.episode_record import EpisodeRecord
from annotator.dataset.episodes import read_episodes
from annotator.dataset.footage import locate_clip
from annotator.dataset.shard_scan import read_timestamps
from annotator.dataset.signals import Signals
from annotator.errors import FootageError, OutOfDate, StepError, VocabularyError
from annotator.modules.base import ModuleInput
from annotator.modules.vocabulary.discovery import (
    STEPS,
    VERSION,
    discover,
    discovery_event,
    discovery_fingerprint,
    sample_episodes,
    watched_digest,
)
from annotator.modules.vocabulary.entries import Vocabulary, edit_event
from annotator.modules.vocabulary.file import FILE, read_vocabulary, write_vocabulary
from annotator.pipeline.episode_context import camera_views
from annotator.pipeline.progress import Progress
from annotator.pipeline.run import Run
from annotator.vlm.client import VlmClient
from annotator.vlm.registry import reads_evidence
from annotator.vlm.session import EpisodeSession, PictureSource, SessionEpisode
from annotator_store.digests import Digest, digest_struct
from annotator_store.log.events import SetupUsed, VocabularyDiscovered, VocabularyEdited, utc_now
from annotator_store.log.log import Log


class Discovery(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be watched to discover a vocabulary: the episodes, what a module sees of each, and the fingerprint.

    `passed_over`: episode index → why its footage could not be watched.
    """

    records: list[EpisodeRecord]
    inputs: list[ModuleInput]
    fingerprint: Digest
    passed_over: dict[int, FootageError]


class VocabularyLookup(msgspec.Struct, frozen=True, kw_only=True):
    """What the file and the log say of a run's vocabulary, before any call or write.

    `vocabulary` is the one to use; None where the run words freely, or where `discovery` must be asked for first.
    `on_file` is what the file holds, `edit` the event that records a person's edit of it, `logged` the discovery in the
    log that `vocabulary` comes from.
    """

    vocabulary: Vocabulary | None = None
    on_file: Vocabulary | None = None
    edit: VocabularyEdited | None = None
    logged: VocabularyDiscovered | None = None
    discovery: Discovery | None = None


def uses_vocabulary(run: Run) -> bool:
    """Whether this run words its subtasks in a vocabulary; the signals engine cannot discover one."""
    enabled = run.settings.vocabulary.enabled and any(module.uses_vocabulary for module in run.modules)
    return enabled and not reads_evidence(run.model)


def look_up_vocabulary(run: Run, log: Log, records: Sequence[EpisodeRecord]) -> VocabularyLookup:
    """Look up the vocabulary of a run in its file and its log, without a call; reads only.

    Raises:
        VocabularyError: the file cannot be used, or there is no episode to discover a vocabulary from.
    """
    if not uses_vocabulary(run):
        return VocabularyLookup()
    on_file = read_vocabulary(run.target_root / FILE)
    edit = None
    if on_file is not None:
        edit = edit_event(log.vocabulary(run.dataset.name), on_file, dataset=run.dataset.name, run_id=run.run_id)
    if on_file is not None and run.settings.vocabulary.reuse_existing:
        return VocabularyLookup(vocabulary=on_file, on_file=on_file, edit=edit)
    discovery = _plan_discovery(run, log, records)
    logged = log.discovered(discovery.fingerprint)
    if logged is None:
        return VocabularyLookup(on_file=on_file, edit=edit, discovery=discovery)
    vocabulary = Vocabulary(subtasks=logged.subtasks, memories=logged.memories)
    return VocabularyLookup(vocabulary=vocabulary, on_file=on_file, edit=edit, logged=logged)


async def resolve_vocabulary(
    run: Run, log: Log, records: Sequence[EpisodeRecord], client: VlmClient, progress: Progress
) -> Vocabulary | None:
    """Return the vocabulary of this run, discovered and written where there is none yet; None where it uses none.

    Raises:
        VocabularyError: the file cannot be used, or no vocabulary can be discovered.
        OutOfDate: with `--locked`, where it would have to be discovered or written.
        CallError, Declined, Rejected, FootageError: the call failed; answers so far are kept.
    """
    lookup = look_up_vocabulary(run, log, records)
    if run.settings.locked:
        _refuse_changes(run, lookup)
        return lookup.vocabulary
    if lookup.edit is not None:
        # Recorded also where the file is about to be replaced: a person's words must not be lost.
        log.record(lookup.edit).result()
    if lookup.logged is not None:
        newest = log.vocabulary(run.dataset.name)
        if newest is None or newest.vocabulary != lookup.logged.vocabulary:
            # The last one recorded counts, so one that was discovered earlier is recorded anew for this dataset.
            changes = {"recorded_at": utc_now(), "run_id": run.run_id, "dataset": run.dataset.name}
            log.record(msgspec.structs.replace(lookup.logged, **changes)).result()
    vocabulary = lookup.vocabulary
    if lookup.discovery is not None:
        vocabulary = await _discover(run, lookup.discovery, client, progress)
    if vocabulary is not None and (vocabulary is not lookup.on_file):
        write_vocabulary(run.target_root / FILE, vocabulary)
    return vocabulary


def _refuse_changes(run: Run, lookup: VocabularyLookup) -> None:
    if lookup.discovery is not None:
        hint = "annotator sync without --locked finds it"
        raise OutOfDate("the vocabulary would have to be found", where=str(run.target_root), hint=hint)
    if lookup.vocabulary != lookup.on_file and lookup.vocabulary is not None:
        where, hint = str(run.target_root / FILE), "annotator sync without --locked brings it up to date"
        raise OutOfDate("the vocabulary would have to be written", where=where, hint=hint)


async def _discover(run: Run, discovery: Discovery, client: VlmClient, progress: Progress) -> Vocabulary:
    """Ask for the vocabulary and record it."""
    for note in _notes_of_passed_over(discovery.passed_over):
        progress.note(note)
    watched = ", ".join(str(record.index) for record in discovery.records)
    progress.note(f"finding the vocabulary in episodes {watched}")
    digests = [module_input.digest for module_input in discovery.inputs]
    with ExitStack() as stack:
        # Several episodes together have no episode digest and no signals of their own.
        together = watched_digest(digests)
        session = SessionEpisode(
            digest=together,
            where="vocabulary",
            signals_digest=together,
            signals=_no_signals,
            pictures=_open_pictures(run, discovery, client, stack),
            outcomes=client.outcomes(together),
        )
        try:
            answer = await discover(discovery.inputs, EpisodeSession(client, session), run.settings)
        except StepError as error:
            error.hint = f"{error.hint}\n      or write {FILE} by hand, or use --vocabulary.enabled=false".strip()
            raise
    setup = SetupUsed(
        seed=run.settings.seed,
        model=digest_struct(run.model),
        prompts=run.prompts.digests(STEPS),
        vocabulary=None,
        module_version=VERSION,
        settings=changed(run.settings, lambda name: name == "vocabulary.sample_episodes"),
    )
    dataset, run_id = run.dataset.name, run.run_id
    await client.keep(
        discovery_event(
            answer, recipe=discovery.fingerprint, episodes=digests, dataset=dataset, run_id=run_id, setup=setup
        )
    )
    return answer.vocabulary


def _plan_discovery(run: Run, log: Log, records: Sequence[EpisodeRecord]) -> Discovery:
    """Choose the episodes to watch from the whole dataset, whichever of them the run is about.

    Raises:
        VocabularyError: there is no episode whose footage can be read.
    """
    chosen: list[EpisodeRecord] = []
    passed_over: dict[int, FootageError] = {}
    for record in _in_sampling_order(run, log, records):
        error = record.error_of(run.cameras.episode_cameras)
        if error is None:
            chosen.append(record)
        else:
            passed_over[record.index] = error
        if len(chosen) == run.settings.vocabulary.sample_episodes:
            break
    if not chosen:
        first = next((error.line for error in passed_over.values()), "the dataset has no episodes")
        hint = "repair the dataset, or use --vocabulary.enabled=false"
        raise VocabularyError("no episode can be watched", where=str(run.dataset.root), got=first, hint=hint)
    inputs = [
        ModuleInput(
            where=f"episode {record.index}",
            digest=record.digest,
            task=record.task,
            timestamps=read_timestamps(run.dataset.root, record),
            cameras=camera_views(record, run.cameras.episode_cameras),
        )
        for record in chosen
    ]
    fingerprint = discovery_fingerprint(
        inputs, run.settings, prompts=run.prompts.digests(STEPS), model=digest_struct(run.model)
    )
    return Discovery(records=chosen, inputs=inputs, fingerprint=fingerprint, passed_over=passed_over)


def _in_sampling_order(run: Run, log: Log, records: Sequence[EpisodeRecord]) -> Iterator[EpisodeRecord]:
    """Yield the episodes in the order in which they would be sampled, each identity once, its footage looked up."""
    threads = run.settings.executor.decode_threads
    by_digest = {record.digest: record for record in sorted(records, key=lambda record: record.task, reverse=True)}
    ranked = [by_digest[digest] for digest in sample_episodes(by_digest, len(by_digest), run.settings.seed)]
    step = run.settings.vocabulary.sample_episodes
    for start in range(0, len(ranked), step):
        # Footage is digested for as many episodes as are needed, and for more only where some cannot be read.
        indices = [record.index for record in ranked[start : start + step]]
        read = read_episodes(run.dataset, log, run.cameras.episode_cameras, indices, threads=threads)
        by_index = {record.index: record for record in read}
        yield from (by_index[index] for index in indices)


def _notes_of_passed_over(passed_over: Mapping[int, FootageError]) -> Iterator[str]:
    """Say which episodes are not watched for the vocabulary; a file that many share is named once."""
    by_line: dict[str, list[int]] = {}
    for index, error in passed_over.items():
        by_line.setdefault(error.line, []).append(index)
    for line, indices in by_line.items():
        yield f"vocabulary: {spell_episodes(sorted(indices))} passed over: {line}"


def _no_signals() -> Signals:
    raise AssertionError("several episodes together have no signals; an engine that reads them is not asked")


def _open_pictures(run: Run, discovery: Discovery, client: VlmClient, stack: ExitStack) -> PictureSource | None:
    if not client.looks or not run.cameras.episode_cameras:
        return None
    from annotator.media.render_pool import RenderPool  # PyAV and Pillow are loaded only for an engine that looks

    clips = {
        record.footage[camera.key]: locate_clip(run.dataset, camera, record, module_input.timestamps)
        for record, module_input in zip(discovery.records, discovery.inputs, strict=True)
        for camera in run.cameras.episode_cameras
    }
    pool = stack.enter_context(RenderPool(run.settings.executor.decode_threads))
    return stack.enter_context(pool.open(clips, client.stats.decoded))
