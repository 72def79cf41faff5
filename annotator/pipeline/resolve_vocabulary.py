"""Settle the vocabulary before anything else is asked: the file as it stands, else what was found, else find it."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack

import msgspec

from annotator.config.flags import changed
from annotator.config.load import spell_episodes
from annotator.dataset.episodes import EpisodeRecord, read_episodes
from annotator.dataset.footage import clip_of
from annotator.dataset.shard_scan import timestamps_of
from annotator.dataset.signals import Signals
from annotator.errors import FootageError, OutOfDate, StepError, VocabularyError
from annotator.modules.base import ModuleInput
from annotator.modules.vocabulary.discovery import (
    STEPS,
    VERSION,
    discover,
    discovered,
    discovery_recipe,
    sampled,
    watched_digest,
)
from annotator.modules.vocabulary.entries import Vocabulary, edited
from annotator.modules.vocabulary.file import FILE, read_vocabulary, write_vocabulary
from annotator.pipeline.episode_context import camera_views
from annotator.pipeline.run import Run
from annotator.vlm.client import VlmClient
from annotator.vlm.models import reads_evidence
from annotator.vlm.office import Office
from annotator.vlm.session import EpisodeSession, PictureSource, SessionEpisode
from annotator_store.digests import digest_struct
from annotator_store.log.event_parts import SetupUsed
from annotator_store.log.events import VocabularyDiscovered, utc_now
from annotator_store.log.log import Log


def is_wanted(run: Run) -> bool:
    """Say whether this run words its subtasks in a vocabulary; without a model there is nobody to find one."""
    on = run.settings.vocabulary.enabled and any(module.uses_vocabulary for module in run.modules)
    return on and not reads_evidence(run.model)


async def resolve_vocabulary(office: Office, surveyed: Sequence[EpisodeRecord]) -> Vocabulary | None:
    """Give the vocabulary of this run, found and written where there is none yet; None where it has none.

    Raises:
        VocabularyError: the file cannot be used, or no vocabulary can be found.
        CallError, Declined, Rejected, FootageError: it could not be asked for; what was answered is kept.
    """
    run, log = office.run, office.log
    if not is_wanted(run):
        return None
    path = run.target_root / FILE
    held = read_vocabulary(path)
    if held is not None and not run.settings.locked:
        # Also of a file that is about to be set aside: what a person wrote stays on the record.
        change = edited(log.vocabulary(run.dataset.name), held, dataset=run.dataset.name, run_id=run.run_id)
        if change is not None:
            log.record(change).result()
    if held is not None and run.settings.vocabulary.reuse_existing:
        return held
    found = await _find(office, surveyed)
    if run.settings.locked and held != found:
        hint = "annotator sync without --locked brings it up to date"
        raise OutOfDate("the vocabulary would have to be written", where=str(path), hint=hint)
    if not run.settings.locked:
        write_vocabulary(path, found)
    return found


async def _find(office: Office, surveyed: Sequence[EpisodeRecord]) -> Vocabulary:
    run, log = office.run, office.log
    chosen, passed = _chosen(run, log, surveyed)
    views = [await asyncio.to_thread(_view, run, one) for one in chosen]
    recipe = discovery_recipe(views, run.settings, prompts=run.prompts.digests(STEPS), model=digest_struct(run.model))
    known = log.discovered(recipe)
    if known is not None:
        if not run.settings.locked:
            _say_again(run, log, known)
        return _of(known)
    if run.settings.locked:
        hint = "annotator sync without --locked finds it"
        raise OutOfDate("the vocabulary would have to be found", where=str(run.target_root), hint=hint)
    for note in _passed_over(passed):
        office.report.note(note)
    office.report.note(f"finding the vocabulary in episodes {', '.join(str(one.episode.index) for one in chosen)}")
    desk = office.desk
    with ExitStack() as stack:
        asker = EpisodeSession(desk, _subject(desk, views, _pictures(office, desk, chosen, views, stack)))
        try:
            found = await discover(views, asker, run.settings)
        except StepError as error:
            error.hint = f"{error.hint}\n      or write {FILE} by hand, or use --vocabulary.enabled=false".strip()
            raise
    digests = [view.digest for view in views]
    event = discovered(
        found, recipe=recipe, episodes=digests, dataset=run.dataset.name, run_id=run.run_id, setup=_setup(run)
    )
    await desk.keep(event)
    return found.vocabulary


def _say_again(run: Run, log: Log, known: VocabularyDiscovered) -> None:
    """Record for this dataset what was found before, where something else was recorded for it since."""
    last = log.vocabulary(run.dataset.name)
    if last is None or last.vocabulary != known.vocabulary:
        at = {"recorded_at": utc_now(), "run_id": run.run_id, "dataset": run.dataset.name}
        log.record(msgspec.structs.replace(known, **at)).result()


def _setup(run: Run) -> SetupUsed:
    return SetupUsed(
        seed=run.settings.seed,
        model=digest_struct(run.model),
        prompts=run.prompts.digests(STEPS),
        vocabulary=None,
        module_version=VERSION,
        settings=changed(run.settings, lambda name: name == "vocabulary.sample_episodes"),
    )


def _of(event: VocabularyDiscovered) -> Vocabulary:
    return Vocabulary(subtasks=event.subtasks, memories=event.memories)


def _chosen(
    run: Run, log: Log, surveyed: Sequence[EpisodeRecord]
) -> tuple[list[EpisodeRecord], dict[int, FootageError]]:
    """Choose the episodes to watch from the whole dataset, whichever of them the run is about.

    Also gives those that were passed over, by index, and why.

    Raises:
        VocabularyError: there is no episode whose footage can be read.
    """
    chosen: list[EpisodeRecord] = []
    passed: dict[int, FootageError] = {}
    count = run.settings.vocabulary.sample_episodes
    for one in _in_turn(run, log, surveyed):
        trouble = one.trouble(run.cast.watched)
        if trouble is None:
            chosen.append(one)
        else:
            passed[one.episode.index] = trouble
        if len(chosen) == count:
            break
    if not chosen:
        first = next((trouble.line for trouble in passed.values()), "the dataset has no episodes")
        hint = "repair the dataset, or use --vocabulary.enabled=false"
        raise VocabularyError("no episode can be watched", where=str(run.dataset.root), got=first, hint=hint)
    return chosen, passed


def _passed_over(passed: Mapping[int, FootageError]) -> Iterator[str]:
    """Say which episodes are not watched for the vocabulary; a file that many share is said once."""
    by_line: dict[str, list[int]] = {}
    for index, trouble in passed.items():
        by_line.setdefault(trouble.line, []).append(index)
    for line, indices in by_line.items():
        yield f"vocabulary: {spell_episodes(sorted(indices))} passed over: {line}"


def _in_turn(run: Run, log: Log, surveyed: Sequence[EpisodeRecord]) -> Iterator[EpisodeRecord]:
    """Give the episodes in the order in which they would be sampled, each identity once, its footage looked up."""
    threads = run.settings.executor.decode_threads
    by_digest = {one.digest: one for one in sorted(surveyed, key=lambda one: one.task, reverse=True)}
    ranked = [by_digest[digest] for digest in sampled(by_digest, len(by_digest), run.settings.seed)]
    step = run.settings.vocabulary.sample_episodes
    for start in range(0, len(ranked), step):
        wanted = [one.episode.index for one in ranked[start : start + step]]
        looked = {
            one.episode.index: one for one in read_episodes(run.dataset, log, run.cast.watched, wanted, threads=threads)
        }
        yield from (looked[index] for index in wanted)


def _view(run: Run, one: EpisodeRecord) -> ModuleInput:
    return ModuleInput(
        where=f"episode {one.episode.index}",
        digest=one.digest,
        task=one.task,
        timestamps=timestamps_of(run.dataset.root, one.episode.shard, one.scanned),
        cameras=camera_views(one, run.cast.watched),
    )


def _subject(desk: VlmClient, views: Sequence[ModuleInput], pictures: PictureSource | None) -> SessionEpisode:
    watched = watched_digest([view.digest for view in views])
    return SessionEpisode(
        episode=watched,
        where="vocabulary",
        signals_digest=watched,
        signals=_no_signals,
        pictures=pictures,
        outcomes=desk.outcomes(watched),
    )


def _no_signals() -> Signals:
    raise AssertionError("several episodes together have no signals; an engine that reads them is not asked")


def _pictures(
    office: Office, desk: VlmClient, chosen: Sequence[EpisodeRecord], views: Sequence[ModuleInput], stack: ExitStack
) -> PictureSource | None:
    run = office.run
    if not desk.looks or not run.cast.watched:
        return None
    from annotator.media.render_pool import RenderPool  # PyAV and Pillow are loaded only for an engine that looks

    clips = {
        one.footage[camera.key]: clip_of(run.dataset, camera, one.reel, view.timestamps)
        for one, view in zip(chosen, views, strict=True)
        for camera in run.cast.watched
    }

    def counted(frames: int) -> None:
        desk.tally.frames_decoded += frames

    studio = stack.enter_context(RenderPool(run.settings.executor.decode_threads))
    return stack.enter_context(studio.open(clips, counted))
