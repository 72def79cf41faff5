"""The `vocabulary` phase, once per dataset: watch a few episodes together, ask what recurs in them.

sampled digests → episodes → one ask over all of them → subtask labels and memory milestones
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from annotator.config.settings import PlanSettings, SyncSettings
from annotator.errors import VocabularyError
from annotator.modules.base import Ask, ModuleInput
from annotator.modules.plan.task_paraphrases import is_placeholder
from annotator.modules.views import Window, windows_of
from annotator.modules.vocabulary.entries import Vocabulary, distinct
from annotator.prompting.answers import Discovered
from annotator.prompting.normalize import tidy_memory, tidy_subtask
from annotator_store.digests import Digest, digest_parts, digest_struct
from annotator_store.keys import DiscoveryFingerprint, WatchedEpisode
from annotator_store.log.events import SetupUsed, VocabularyDiscovered, utc_now

NAME = "vocabulary"
VERSION = 1
"""Raise it when entries change for the same answer; the vocabulary is then found anew, without a call."""
STEPS = ("vocabulary.discover",)

MOST_ENTRIES = 64
"""Entries of one list that are taken from an answer."""

VIEW_SETTINGS = (
    "view",
    "frames_per_second",
    "contact_sheet_columns",
    "contact_sheet_frames_per_sheet",
    "contact_sheet_frame_width",
    "contact_sheet_quality",
    "video_frame_width",
)
"""The settings of `plan` that say how an episode is shown; the vocabulary depends on no others of them."""


class Discovery(msgspec.Struct, frozen=True, kw_only=True):
    """A vocabulary that was found, and the key of the call that gave it."""

    vocabulary: Vocabulary
    call: Digest


def sampled(digests: Iterable[Digest], count: int, seed: int) -> list[Digest]:
    """Choose up to `count` episodes to watch, all sets equally likely, in the order in which they are shown.

    Where episodes stand in the dataset, and how often, has no say; one more sampled leaves the others as they were.
    """
    return sorted(set(digests), key=lambda digest: _rank(seed, digest))[: max(0, count)]


def watched_digest(digests: Iterable[Digest]) -> Digest:
    """Digest which episodes were watched, in any order: it stands for the episode in the call's key."""
    return digest_parts("watched.v1", [digest.encode() for digest in sorted(digests)])


def discovery_recipe(
    episodes: Sequence[ModuleInput],
    settings: SyncSettings,
    *,
    prompts: Mapping[str, Digest],
    model: Digest,
    evidence: Digest | None = None,
) -> Digest:
    """Digest everything the vocabulary depends on; one that is in the log has been found, and nothing is asked.

    `prompts` are those of `Prompts.digests(STEPS)`; `evidence` digests the signals, for an engine that reads them.
    """
    recipe = DiscoveryFingerprint(
        watched=tuple(_watched(episode) for episode in _in_order(episodes, settings.seed)),
        evidence=evidence,
        version=VERSION,
        settings={name: getattr(settings.plan, name) for name in VIEW_SETTINGS}
        | {"max_frames": settings.vocabulary.max_frames},
        prompts=dict(prompts),
        model=model,
        seed=settings.seed,
    )
    return digest_struct(recipe)


async def discover(episodes: Sequence[ModuleInput], ask: Ask, settings: SyncSettings) -> Discovery:
    """Watch episodes together and ask for the labels and milestones that recur in them.

    The episodes share the frames that one prompt may hold, and are shown in the order of `sampled`, however they come.

    Raises:
        VocabularyError: there is nothing to watch or to read.
        CallError, FootageError: no reply; the next run asks again.
        Declined, Rejected: the engine cannot answer, or neither of its replies fits.
    """
    shown = _in_order(episodes, settings.seed)
    windows = [windows_of(episode, _share(settings, len(shown)), whole=True)[0] for episode in shown]
    media = tuple(item for window in windows for item in window.media)
    if not media and not any(_task(episode) for episode in shown):
        got = f"{len(shown)} episodes without footage and without a task"
        hint = "write meta/canonical_vocabulary.json by hand, or use --vocabulary.enabled=false"
        raise VocabularyError("there is nothing to find a vocabulary from", where="vocabulary", got=got, hint=hint)
    inputs = {"recordings": _recordings(shown, windows)}
    asked = await ask("vocabulary.discover", Discovered, inputs, media, misfit=misfit)
    return Discovery(vocabulary=vocabulary_of(asked.answer), call=asked.key)


def vocabulary_of(answer: Discovered) -> Vocabulary:
    """Tidy an answer's entries, without those that say nothing or say again what another says."""
    subtasks = distinct(tidy_subtask(text) for text in answer.subtasks)
    memories = distinct(tidy_memory(text) for text in answer.memories)
    return Vocabulary(subtasks=tuple(subtasks[:MOST_ENTRIES]), memories=tuple(memories[:MOST_ENTRIES]))


def misfit(answer: Discovered) -> str:
    """Say which list has entries but none with a text in it, "" where there is none such.

    That nothing is ever achieved, and there are no memories, can be meant.
    """
    found = vocabulary_of(answer)
    empty = [name for name in ("subtasks", "memories") if getattr(answer, name) and not getattr(found, name)]
    return f"no entry of {' and of '.join(empty)} says anything" if empty else ""


def discovered(
    found: Discovery,
    *,
    recipe: Digest,
    episodes: Iterable[Digest],
    dataset: str,
    run_id: str,
    setup: SetupUsed | None = None,
) -> VocabularyDiscovered:
    """Put on the record what was found for a dataset, from which episodes, and with what."""
    return VocabularyDiscovered(
        recorded_at=utc_now(),
        run_id=run_id,
        dataset=dataset,
        recipe=recipe,
        vocabulary=found.vocabulary.digest,
        call=found.call,
        episodes=tuple(episodes),
        subtasks=found.vocabulary.subtasks,
        memories=found.vocabulary.memories,
        setup=setup,
    )


def _rank(seed: int, episode: Digest) -> tuple[Digest, Digest]:
    return digest_parts("vocabulary-sample.v1", [str(seed).encode(), episode.encode()]), episode


def _in_order(episodes: Iterable[ModuleInput], seed: int) -> list[ModuleInput]:
    return sorted(episodes, key=lambda episode: _rank(seed, episode.digest))


def _watched(episode: ModuleInput) -> WatchedEpisode:
    footage = tuple((camera.key, camera.footage) for camera in episode.cameras)
    return WatchedEpisode(episode=episode.digest, task=_task(episode), footage=footage)


def _task(episode: ModuleInput) -> str:
    """The task where it says something: one that everyone can see is a placeholder would only mislead."""
    return "" if is_placeholder(episode.task, 1) else tidy_memory(episode.task)


def _share(settings: SyncSettings, episodes: int) -> PlanSettings:
    """Give each episode its part of the frames that one prompt may hold; at least one."""
    most = max(1, settings.vocabulary.max_frames // max(1, episodes))
    return msgspec.structs.replace(settings.plan, max_frames_per_prompt=most, max_video_frames=most)


def _recordings(episodes: Sequence[ModuleInput], windows: Sequence[Window]) -> str:
    """Say which media are which recording and what was asked for in it; then how to read them, once for all alike."""
    said: list[str] = []
    alike: dict[str, list[str]] = {}
    first = 1
    for number, (episode, window) in enumerate(zip(episodes, windows, strict=True), start=1):
        task = _task(episode) or "(not known)"
        said.append(f"Recording {number} of {len(episodes)}{_range(window, first)}. Its task: {task}")
        alike.setdefault(window.view, []).append(str(number))
        first += len(window.media)
    read = [f"Recording{'s' * (len(of) > 1)} {', '.join(of)}, taken alone: {view}" for view, of in alike.items()]
    return "\n".join([*said, "", *read])


def _range(window: Window, first: int) -> str:
    if not window.media:
        return ""
    kind = "video" if window.media[0].render.kind == "video" else "image"
    last = first + len(window.media) - 1
    return f", {kind} {first}" if first == last else f", {kind}s {first} to {last}"
