"""What the rows of each data shard were last made from, folded from one dataset's `ShardWritten` events.

A writing names the annotations that it took rows from and leaves the rows of other modules as they are. So a shard's
rows come from its last writing and, for modules that it does not name, from earlier ones.
"""

from collections.abc import Iterable

import msgspec

from annotator_store.digests import Digest
from annotator_store.log.events import EpisodeSources, ShardWritten
from annotator_store.log.folds import as_utc


class WrittenEpisode(msgspec.Struct, frozen=True, kw_only=True):
    """Where an episode's rows come from: module → id of its `EpisodeAnnotated`.

    `start`, `stop`: its row offsets in the shard. `sources`: of the last writing; `kept`: of earlier ones,
    whose rows the last one left as they were.
    """

    episode: Digest
    start: int
    stop: int
    sources: dict[str, Digest]
    kept: dict[str, Digest]

    @property
    def annotations(self) -> dict[str, Digest]:
        """`sources` and `kept` together, sorted by module."""
        return dict(sorted((self.kept | self.sources).items()))


class WrittenShard(msgspec.Struct, frozen=True, kw_only=True):
    """A shard as it was last written; `episodes` is empty where an earlier release did not record them."""

    path: str
    language: Digest
    episodes: tuple[WrittenEpisode, ...]

    @property
    def annotations(self) -> tuple[Digest, ...]:
        """The annotations that its rows come from, episode by episode."""
        return tuple(event_id for episode in self.episodes for event_id in episode.annotations.values())


def fold_shards(writings: Iterable[tuple[Digest, ShardWritten]], dataset: str) -> dict[str, WrittenShard]:
    """Fold (event id, event) to one record per shard of `dataset`, by path, in any order and with repetitions."""
    ordered = sorted(
        {event_id: event for event_id, event in writings if event.dataset == dataset}.items(),
        key=lambda item: (as_utc(item[1].recorded_at), item[0]),
    )
    records: dict[str, WrittenShard] = {}
    for _, event in ordered:
        previous = records.get(event.path)
        # An event of a release that did not record them leaves the episodes known before it.
        episodes = _fold_episodes(previous, event.made_of) if event.made_of or previous is None else previous.episodes
        records[event.path] = WrittenShard(path=event.path, language=event.language, episodes=episodes)
    return dict(sorted(records.items()))


def adds_to_record(record: WrittenShard | None, event: ShardWritten) -> bool:
    """Whether an event says something about its shard that the record does not, so that it must be recorded."""
    if record is None or record.language != event.language:
        return True
    known = {(episode.start, episode.stop, episode.episode): episode.annotations for episode in record.episodes}
    return len(known) != len(event.made_of) or any(
        (episode.start, episode.stop, episode.episode) not in known
        or bool((episode.sources or {}).items() - known[episode.start, episode.stop, episode.episode].items())
        for episode in event.made_of
    )


def _fold_episodes(previous: WrittenShard | None, made_of: Iterable[EpisodeSources]) -> tuple[WrittenEpisode, ...]:
    """Combine a writing with what was known of its shard before.

    An episode is found again by its digest and first row. Episodes that are alike have one digest, and the rows of an
    episode move when one before it is deleted: then it takes the first unclaimed annotations of its digest.
    """
    ordered = sorted(made_of, key=lambda written: written.start)
    places = {(written.episode, written.start) for written in ordered}
    known = {(episode.episode, episode.start): episode.annotations for episode in previous.episodes} if previous else {}
    moved: dict[Digest, list[dict[str, Digest]]] = {}
    for place, annotations in known.items():
        if place not in places:
            moved.setdefault(place[0], []).append(annotations)
    episodes: list[WrittenEpisode] = []
    for written in ordered:
        annotations, unclaimed = known.get((written.episode, written.start)), moved.get(written.episode, [])
        if annotations is None:
            annotations = unclaimed.pop(0) if unclaimed else {}
        sources = dict(written.sources or {})
        kept = {module: event for module, event in annotations.items() if module not in sources}
        episodes.append(
            WrittenEpisode(episode=written.episode, start=written.start, stop=written.stop, sources=sources, kept=kept)
        )
    return tuple(episodes)
