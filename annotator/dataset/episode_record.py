"""One episode of a dataset: where it lies, what identifies it, and which of its footage can be read."""

from collections.abc import Iterable, Mapping

import msgspec

from annotator.dataset.metadata import Camera, VideoSpan
from annotator.dataset.shard_scan import EpisodeScan
from annotator.errors import FootageError
from annotator_store.digests import Digest


class EpisodeRecord(EpisodeScan, frozen=True, kw_only=True):
    """What `data/` and `meta/episodes` say of one episode, and its identity in every key.

    `digest` identifies what the robot did, whatever its index, path or task (docs/keys.md). `footage` holds a digest
    by camera key for the cameras in use that can be read; `footage_errors` says why the others cannot.
    `identity_error` is set where nothing but the footage identifies the episode, and some of that cannot be read.
    """

    videos: dict[str, VideoSpan]
    task: str
    digest: Digest
    footage: dict[str, Digest] = msgspec.field(default_factory=dict[str, Digest])
    footage_errors: dict[str, FootageError] = msgspec.field(default_factory=dict[str, FootageError])
    identity_error: FootageError | None = None

    @property
    def frame_count(self) -> int:
        """The number of its frames."""
        return self.stop - self.start

    def with_footage(self, results: Mapping[str, Digest | FootageError]) -> "EpisodeRecord":
        """Return the record with what was read of its cameras, by camera key."""
        errors = {key: value for key, value in results.items() if isinstance(value, FootageError)}
        footage = {key: value for key, value in sorted(results.items()) if not isinstance(value, FootageError)}
        return msgspec.structs.replace(
            self,
            footage=footage,
            footage_errors=errors,
            digest=self.identity(footage),
            identity_error=None if self.motion_digest else next(iter(errors.values()), None),
        )

    def error_of(self, cameras: Iterable[Camera]) -> FootageError | None:
        """Return what is wrong with the footage of these cameras, or with the episode's identity."""
        errors = (self.footage_errors[camera.key] for camera in cameras if camera.key in self.footage_errors)
        return self.identity_error or next(errors, None)
