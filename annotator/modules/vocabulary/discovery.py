"""The vocabulary of a dataset, found once: a few episodes are shown together, and what recurs in them is asked.

sampled digests → episodes → one ask over all of them → subtask labels and memory milestones
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from annotator.config.settings import SyncSettings
from annotator.errors import VocabularyError
from annotator.modules.base import Ask, ModuleInput
from annotator.modules.plan.task_paraphrases import is_placeholder
from annotator.modules.views import Window, windows_of
from annotator.modules.vocabulary.entries import Vocabulary, distinct
from annotator.prompting.answers import Discovered
from annotator.prompting.normalize import tidy_label, tidy_memory
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


def sample_episodes(digests: Iterable[Digest], count: int, seed: int) -> list[Digest]:
    """Choose up to `count` episodes to watch, all sets equally likely, in the order in which they are shown.

    Neither where episodes stand in the dataset nor how often matters; one more leaves the others as they were.
    """
    return sorted(set(digests), key=lambda digest: _rank(seed, digest))[: max(0, count)]


def _rank(seed: int, episode: Digest) -> tuple[Digest, Digest]:
    return digest_parts("vocabulary-sample.v1", [str(seed).encode(), episode.encode()]), episode


def watched_digest(digests: Iterable[Digest]) -> Digest:
    """Digest which episodes were watched, in any order: it stands for the episode in the call's key."""
    return digest_parts("watched.v1", [digest.encode() for digest in sorted(digests)])


def discovery_fingerprint(
    episodes: Sequence[ModuleInput],
    settings: SyncSettings,
    *,
    prompts: Mapping[str, Digest],
    model: Digest,
    evidence: Digest | None = None,
) -> Digest:
    """Digest everything the vocabulary depends on; one that is in the log is used again, and nothing is asked.

    `prompts` are those of `Prompts.digests(STEPS)`; `evidence` digests the signals, for an engine that reads them.
    """
    watched = tuple(
        WatchedEpisode(
            episode=episode.digest,
            task=_task(episode),
            footage=tuple((camera.key, camera.footage) for camera in episode.cameras),
        )
        for episode in sorted(episodes, key=lambda episode: _rank(settings.seed, episode.digest))
    )
    view = {name: getattr(settings.plan, name) for name in VIEW_SETTINGS}
    fingerprint = DiscoveryFingerprint(
        watched=watched,
        evidence=evidence,
        version=VERSION,
        settings=view | {"max_frames": settings.vocabulary.max_frames},
        prompts=dict(prompts),
        model=model,
        seed=settings.seed,
    )
    return digest_struct(fingerprint)


async def discover(episodes: Sequence[ModuleInput], ask: Ask, settings: SyncSettings) -> Discovery:
    """Show episodes together and ask for the labels and milestones that recur in them.

    The episodes share the frames that one prompt may hold, and are shown in the order of `sample_episodes`.

    Raises:
        VocabularyError: there is nothing to watch or to read.
        CallError, FootageError: no reply; the next run asks again.
        Declined, Rejected: the engine cannot answer, or neither of its replies fits.
    """
    shown = sorted(episodes, key=lambda episode: _rank(settings.seed, episode.digest))
    frames = max(1, settings.vocabulary.max_frames // max(1, len(shown)))
    view = msgspec.structs.replace(settings.plan, max_frames_per_prompt=frames, max_video_frames=frames)
    windows = [windows_of(episode, view, whole=True)[0] for episode in shown]
    media = tuple(item for window in windows for item in window.media)
    if not media and not any(_task(episode) for episode in shown):
        got = f"{len(shown)} episodes without footage and without a task"
        hint = "write meta/canonical_vocabulary.json by hand, or use --vocabulary.enabled=false"
        raise VocabularyError("there is nothing to find a vocabulary from", where="vocabulary", got=got, hint=hint)
    inputs = {"recordings": _recordings(shown, windows)}
    answered = await ask("vocabulary.discover", Discovered, inputs, media, misfit=misfit)
    return Discovery(vocabulary=vocabulary_of(answered.answer), call=answered.key)


def _task(episode: ModuleInput) -> str:
    """Return the task where it says something: a placeholder would only mislead."""
    return "" if is_placeholder(episode.task, 1) else tidy_memory(episode.task)


def _recordings(episodes: Sequence[ModuleInput], windows: Sequence[Window]) -> str:
    """Say which media are which recording and what its task was; then how to read them, once for all that are alike."""
    recordings: list[str] = []
    alike: dict[str, list[str]] = {}
    first = 1
    for number, (episode, window) in enumerate(zip(episodes, windows, strict=True), start=1):
        place = ""
        if window.media:
            kind = "video" if window.media[0].render.kind == "video" else "image"
            last = first + len(window.media) - 1
            place = f", {kind} {first}" if first == last else f", {kind}s {first} to {last}"
        task = _task(episode) or "(not known)"
        recordings.append(f"Recording {number} of {len(episodes)}{place}. Its task: {task}")
        alike.setdefault(window.view, []).append(str(number))
        first += len(window.media)
    reading = [f"Recording{'s' * (len(of) > 1)} {', '.join(of)}, taken alone: {view}" for view, of in alike.items()]
    return "\n".join([*recordings, "", *reading])


def vocabulary_of(answer: Discovered) -> Vocabulary:
    """Return an answer's entries tidied, without blank ones and repetitions."""
    subtasks = distinct(tidy_label(text) for text in answer.subtasks)
    memories = distinct(tidy_memory(text) for text in answer.memories)
    return Vocabulary(subtasks=tuple(subtasks[:MOST_ENTRIES]), memories=tuple(memories[:MOST_ENTRIES]))


def misfit(answer: Discovered) -> str:
    """Say which list has entries but none with a text in it, in the words of the prompt; "" where neither has.

    An empty list of memories is an answer: nothing is ever achieved.
    """
    vocabulary = vocabulary_of(answer)
    empty = [name for name in ("subtasks", "memories") if getattr(answer, name) and not getattr(vocabulary, name)]
    return f"no entry of {' and of '.join(empty)} says anything" if empty else ""


def discovery_event(
    discovery: Discovery,
    *,
    recipe: Digest,
    episodes: Iterable[Digest],
    dataset: str,
    run_id: str,
    setup: SetupUsed | None = None,
) -> VocabularyDiscovered:
    """Return the record of what was found for a dataset, from which episodes, and with what setup."""
    return VocabularyDiscovered(
        recorded_at=utc_now(),
        run_id=run_id,
        dataset=dataset,
        recipe=recipe,
        vocabulary=discovery.vocabulary.digest,
        call=discovery.call,
        episodes=tuple(episodes),
        subtasks=discovery.vocabulary.subtasks,
        memories=discovery.vocabulary.memories,
        setup=setup,
    )
