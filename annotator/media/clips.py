"""Clips: where the frames of one episode and one camera lie, in a video file or in the data shard."""

from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from annotator.errors import FootageError


class Clip(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One episode of one camera whose frames are part of a video file.

    `from_timestamp` (included) and `to_timestamp` (excluded) are seconds in the file;
    `frame_timestamps`: (T,) float32 seconds from the episode's first frame, ascending, as stored.
    """

    path: Path
    from_timestamp: float
    to_timestamp: float
    frame_timestamps: npt.NDArray[np.float32]
    fps: float
    camera: str


class ImageClip(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One episode of a camera whose frames are stored as images in the data shard.

    `images`: (T,) Arrow struct{bytes, path}, one encoded image a frame; where `bytes` is null, `path` is under `root`.
    `frame_timestamps` as in `Clip`.
    """

    images: pa.StructArray
    root: Path
    frame_timestamps: npt.NDArray[np.float32]
    fps: float
    camera: str


def image_bytes(clip: ImageClip, index: int) -> bytes | memoryview:
    """Return the encoded bytes of one stored image, without a copy where the shard holds them.

    Raises:
        FootageError: it is neither in the shard nor where its path says.
    """
    stored = clip.images.field("bytes")[index]
    if stored.is_valid:
        return memoryview(stored.as_buffer())
    name = clip.images.field("path")[index].as_py()
    if name is None:
        raise FootageError(
            "a frame has no image", where=f"{clip.camera}, frame {index}", hint="the shard has neither bytes nor a path"
        )
    try:
        return (clip.root / name).read_bytes()
    except OSError as cause:
        raise FootageError(
            "an image file cannot be read",
            where=f"{clip.camera}, frame {index}",
            got=str(cause),
            hint="fetch the dataset's images, or correct --root",
        ) from cause
