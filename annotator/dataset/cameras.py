"""Which cameras a run looks through."""

from collections.abc import Collection, Sequence

import msgspec

from annotator.config.settings import SyncSettings
from annotator.dataset.metadata import Camera, Dataset
from annotator.errors import UsageError


class CameraSelection(msgspec.Struct, frozen=True, kw_only=True):
    """`episode_cameras` are shown in prompts about a whole episode, `frame_cameras` in questions about one frame."""

    episode_cameras: tuple[Camera, ...]
    frame_cameras: tuple[Camera, ...]

    @property
    def all(self) -> tuple[Camera, ...]:
        """Every camera in use, once."""
        return tuple({camera.key: camera for camera in (*self.episode_cameras, *self.frame_cameras)}.values())


def color_cameras(dataset: Dataset) -> list[Camera]:
    """Return the cameras that a model can be shown: those that record no depth."""
    return [camera for camera in dataset.cameras if not camera.depth]


def select_cameras(dataset: Dataset, settings: SyncSettings, needed: Collection[str]) -> CameraSelection:
    """Choose the cameras: those that are named, else the first that shows no depth; none where there is none.

    `needed`: what the enabled modules look at, of `episode` and `frame`; nothing is chosen for the other.

    Raises:
        UsageError: a named camera does not exist, shows depth, or is named twice.
    """
    usable = color_cameras(dataset)
    keys, flag = settings.vlm.camera_keys, "--vlm.camera_keys"
    if not keys and settings.vlm.camera_key is not None:
        keys, flag = (settings.vlm.camera_key,), "--vlm.camera_key"
    shown = tuple(_find_camera(usable, key, flag) for key in keys) or tuple(usable[:1])
    if len({camera.key for camera in shown}) < len(shown):
        raise UsageError("a camera is named twice", where=flag, got=", ".join(keys), hint="name each once")
    frame_cameras = shown[:1] if settings.vqa.restrict_to_default_camera else tuple(usable)
    return CameraSelection(
        episode_cameras=shown if "episode" in needed else (), frame_cameras=frame_cameras if "frame" in needed else ()
    )


def _find_camera(usable: Sequence[Camera], key: str, flag: str) -> Camera:
    for camera in usable:
        if camera.key == key:
            return camera
    hint = f"cameras: {', '.join(camera.key for camera in usable) or 'none'}"
    raise UsageError("no such camera", where=flag, got=key, hint=hint)
