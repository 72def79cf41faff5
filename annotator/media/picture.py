"""A rendered media item, ready for an engine."""

from typing import Literal

import msgspec

from annotator_store.digests import Digest


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """One media item, rendered: JPEG bytes, one for an image, several in order for a video block.

    `media_digest` names footage, timestamps and rendering together, so an engine may cache pixels under it.
    `timestamps` are seconds from the episode's first frame, one per source frame.
    """

    kind: Literal["image", "video"]
    jpegs: tuple[bytes, ...]
    media_digest: Digest
    timestamps: tuple[float, ...]
