"""Every keyed struct with its tag, apart from `parquet.episode_language.EpisodeLanguage`, which is more than a key.

If it can change an answer it is a field here; if it is not a field here it cannot change an answer.

    call_key     = digest(Call: episode, prompt, model, seed, frames)             which answer
    fingerprint  = digest(Fingerprint: setup, episode, footage, task, upstream)   whether a module's rows are up to date
    projection   = digest(Projection: rules, episodes' annotations)               whether a shard is up to date

A field that is added to one of these structs later goes into its `added`; docs/keys.md says why.
"""

from typing import Any, Literal

import msgspec

from annotator_store.digests import Digest, Keyed, KeyPart, digest_struct
from annotator_store.rows import Row


class Text(KeyPart, frozen=True, tag="text"):
    """A piece of rendered text inside a message."""

    text: str


class Slot(KeyPart, frozen=True, tag="media"):
    """The place of the `index`-th media item (see `Frames.media`) inside a message."""

    index: int


class Message(KeyPart, frozen=True):
    """One chat message, rendered."""

    role: Literal["system", "user", "assistant"]
    parts: tuple[Text | Slot, ...]


class Prompt(Keyed, frozen=True, kw_only=True):
    """What is sent: every message's text, where the media go, and the answer's JSON schema."""

    tag_v = "prompt.v1"
    messages: tuple[Message, ...]
    schema: dict[str, Any]


class Model(Keyed, frozen=True, kw_only=True):
    """Which model answers, and every setting that can change what it says.

    Not here, because they are provenance: endpoint, engine, batch size, parallelism.
    """

    tag_v = "model.v1"
    model_id: str
    revision: str | None = None
    chat_template_kwargs: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    mm_processor_kwargs: dict[str, Any] = msgspec.field(default_factory=dict[str, Any])
    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 0
    reasoning_effort: str | None = None


class Render(KeyPart, frozen=True, kw_only=True):
    """How frames become one media item.

    `frame`: one JPEG. `video`: an ordered list of JPEGs sent as one video.
    `sheet`: a grid of tiles, row-major, one JPEG.
    `width_px` is a frame's or tile's width; 0 keeps the stored width. Height follows the stored aspect ratio.
    """

    kind: Literal["frame", "video", "sheet"]
    width_px: int = 0
    columns: int = 1
    quality: int = 84
    badge: bool = False
    renderer: str = "1"


class MediaItem(KeyPart, frozen=True, kw_only=True):
    """One image, video block or contact sheet: which footage, which frames of it, drawn how.

    `timestamps` are seconds from the episode's first frame, float32 values as stored, ascending.
    """

    footage: Digest
    timestamps: tuple[float, ...]
    render: Render


class Evidence(KeyPart, frozen=True, kw_only=True):
    """Something other than footage that an engine reads, by digest."""

    kind: Literal["signals", "inputs"]
    digest: Digest


class Frames(Keyed, frozen=True, kw_only=True):
    """Everything an engine looks at beside the text, in order."""

    tag_v = "frames.v1"
    media: tuple[MediaItem, ...] = ()
    evidence: tuple[Evidence, ...] = ()


class Media(Keyed, frozen=True, kw_only=True):
    """One media item alone: the name under which engines may cache its pixels."""

    tag_v = "media.v1"
    item: MediaItem


class Call(Keyed, frozen=True, kw_only=True):
    """The five parts of a call's key."""

    tag_v = "call.v1"
    episode: Digest
    prompt: Digest
    model: Digest
    seed: int
    frames: Digest


def call_key(call: Call) -> Digest:
    """The key under which a call's answer is kept for ever."""
    return digest_struct(call)


class Inputs(Keyed, frozen=True, kw_only=True):
    """The named values a prompt was rendered from, for an engine that reads them instead of the text."""

    tag_v = "inputs.v1"
    values: dict[str, str]


class AnnotationSetup(Keyed, frozen=True, kw_only=True):
    """What one module's rows depend on that is the same for every episode of a run.

    `settings`: the settings its rows depend on, by flag. `prompts`: step → digest of the prompt's body.
    """

    tag_v = "setup.v1"
    module: str
    module_version: int
    settings: dict[str, Any]
    prompts: dict[str, Digest]
    model: Digest
    seed: int
    vocabulary: Digest | None


class Fingerprint(Keyed, frozen=True, kw_only=True):
    """What the rows of one module for one episode depend on.

    `footage`: for each camera its key, the digest of its footage, and the stored width and height in pixels.
    `upstream`: the digest of the rows of the module it follows (`AnnotationRows`).
    """

    tag_v = "recipe.v2"
    setup: Digest
    episode: Digest
    footage: tuple[tuple[str, Digest, int, int], ...]
    evidence: Digest | None
    task: str
    upstream: Digest | None


class AnnotationRows(Keyed, frozen=True, kw_only=True):
    """The rows of one annotation in their total order, and the task it set in the dataset's place.

    It is all that a module which follows this one can depend on.
    """

    tag_v = "rows.v2"
    rows: tuple[Row, ...]
    task: str | None


class Projection(Keyed, frozen=True, kw_only=True):
    """What a shard's language columns were made from; while it is unchanged, the shard is not even opened.

    `episodes`: for each its row offsets [start, stop) and module → id of the event that gave its rows; None where the
    episode was not asked for.
    """

    tag_v = "projection.v2"
    rules: Digest
    episodes: tuple[tuple[int, int, dict[str, Digest] | None], ...]


class WatchedEpisode(KeyPart, frozen=True, kw_only=True):
    """One episode that a vocabulary is discovered from: its digest, its task, each camera's key and footage."""

    episode: Digest
    task: str
    footage: tuple[tuple[str, Digest], ...]


class DiscoveryFingerprint(Keyed, frozen=True, kw_only=True):
    """What a discovered vocabulary depends on. `watched` is in the order in which the episodes are shown."""

    tag_v = "discovery.v1"
    watched: tuple[WatchedEpisode, ...]
    evidence: Digest | None
    version: int
    settings: dict[str, str | float | int]
    prompts: dict[str, Digest]
    model: Digest
    seed: int


class Vocabulary(Keyed, frozen=True, kw_only=True):
    """The entries, in the order of the file: imperative subtask labels, first-person past-tense memory milestones.

    There is always a subtask; without `memories` nothing is held to be remembered.
    """

    tag_v = "vocabulary.v1"
    subtasks: tuple[str, ...]
    memories: tuple[str, ...]

    @property
    def digest(self) -> Digest:
        """The digest of the entries."""
        return digest_struct(self)
