"""The ledger: what the rows of each data shard were last made of, folded from one dataset's `ShardWritten` events.

A writing names the annotations it took rows from and leaves all other rows as they stood, so what stands there is what
the last writing put, and beneath it what earlier ones did.
"""

from collections.abc import Iterable, Mapping

import msgspec

from annotator_store.digests import Digest
from annotator_store.log.events import EpisodeSources, ShardWritten
from annotator_store.log.folds import as_utc


class WrittenEpisode(msgspec.Struct, frozen=True, kw_only=True):
    """Where an episode's rows come from: module → id of its `EpisodeAnnotated`.

    `sources` are those of the last writing; `kept` those of earlier ones, whose rows the last one left as they stood.
    """

    episode: Digest
    start: int
    stop: int
    sources: dict[str, Digest]
    kept: dict[str, Digest]

    @property
    def annotations(self) -> dict[str, Digest]:
        """All of them, by module, in order of the modules' names."""
        return dict(sorted((self.kept | self.sources).items()))


class WrittenShard(msgspec.Struct, frozen=True, kw_only=True):
    """A shard as it was last written; `episodes` is empty where an earlier release did not note them."""

    path: str
    language: Digest
    episodes: tuple[WrittenEpisode, ...]

    @property
    def annotations(self) -> tuple[Digest, ...]:
        """Every annotation that its rows come from, episode by episode."""
        return tuple(event_id for episode in self.episodes for event_id in episode.annotations.values())


def fold_shards(writings: Iterable[tuple[Digest, ShardWritten]], dataset: str) -> dict[str, WrittenShard]:
    """Fold (event id, event) to one record per shard of `dataset`, by path; order and repetition do not matter."""
    ordered = sorted(
        {event_id: event for event_id, event in writings if event.dataset == dataset}.items(),
        key=lambda item: (as_utc(item[1].recorded_at), item[0]),
    )
    records: dict[str, WrittenShard] = {}
    for _, event in ordered:
        before = records.get(event.path)
        # A release that did not note them does not make what was noted before untrue.
        episodes = _over(before, event.made_of) if event.made_of or before is None else before.episodes
        records[event.path] = WrittenShard(path=event.path, language=event.language, episodes=episodes)
    return dict(sorted(records.items()))


def says_more(before: WrittenShard | None, event: ShardWritten) -> bool:
    """Say whether an event tells anything of its shard that the ledger does not: so it is to be recorded."""
    if before is None or before.language != event.language:
        return True
    stood = {(one.start, one.stop, one.episode): one.annotations for one in before.episodes}
    return len(stood) != len(event.made_of) or any(
        (one.start, one.stop, one.episode) not in stood
        or bool((one.sources or {}).items() - stood[one.start, one.stop, one.episode].items())
        for one in event.made_of
    )


def _over(before: WrittenShard | None, made_of: Iterable[EpisodeSources]) -> tuple[WrittenEpisode, ...]:
    """Lay a writing over what stood in its shard.

    Rows move when an episode before them is deleted: where they start only tells episodes apart that are alike.
    """
    ordered = sorted(made_of, key=lambda one: one.start)
    placed = {(one.episode, one.start) for one in ordered}
    stood = {(one.episode, one.start): one.annotations for one in before.episodes} if before else {}
    moved: dict[Digest, list[dict[str, Digest]]] = {}
    for place, annotations in stood.items():
        if place not in placed:
            moved.setdefault(place[0], []).append(annotations)
    records: list[WrittenEpisode] = []
    for one in ordered:
        others = moved.get(one.episode, [])
        here = stood.get((one.episode, one.start))
        records.append(_laid(one, others.pop(0) if here is None and others else here or {}))
    return tuple(records)


def _laid(one: EpisodeSources, stood: Mapping[str, Digest]) -> WrittenEpisode:
    sources = dict(one.sources or {})
    kept = {module: event for module, event in stood.items() if module not in sources}
    return WrittenEpisode(episode=one.episode, start=one.start, stop=one.stop, sources=sources, kept=kept)
