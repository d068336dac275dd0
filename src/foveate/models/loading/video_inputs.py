"""Model inputs of videos, made frame by frame by the checkpoint's own image processor.

The stock video processors need torchvision, which foveate does not depend on.
"""

from collections.abc import Sequence
from typing import Any

from foveate.core.arrangement import Arrangement
from foveate.core.budget import Keep
from foveate.core.errors import UnsupportedModel, UnsupportedNeed
from foveate.data.clip import Clip
from foveate.models.backbone.adapter import Adapter, ImageInputs
from foveate.models.backbone.internals import internal
from foveate.models.loading.checkpoint import device_of
from foveate.models.loading.image_inputs import named_refusals
from foveate.models.loading.names import REFERENCE_VIDEO, VIDEO_FAMILIES


def video_inputs(
    adapter: Adapter, clips: Sequence[Clip], keep: Keep | None = None
) -> tuple[ImageInputs, list[Arrangement]]:
    """Returns the model inputs of videos and their arrangements; see `LoadedModel.video_inputs`."""
    videos = adapter.kind("video")
    if videos is None:
        raise UnsupportedModel(
            f"{type(adapter.model).__name__} takes images, not videos: give the frames as images (--frames-as images), "
            f"or use {REFERENCE_VIDEO!r} or a model of {VIDEO_FAMILIES}"
        )
    if keep is not None and not videos.makes_smaller_videos:
        raise UnsupportedNeed(f"{type(adapter.model).__name__} has no rule for smaller videos: prepare smaller frames")
    with named_refusals("frames", [clip.frames[0] for clip in clips]):
        inputs, arrangements = videos.prepared_videos(clips, keep)
    device = device_of(adapter.model)
    return {name: value.to(device) for name, value in inputs.items()}, arrangements


def video_settings(source: str, revision: str) -> dict[str, Any]:
    """Returns the size and the crop of frames that a checkpoint's video processor has; empty if it has none.

    Args:
        source: The checkpoint's folder or hub ID.
        revision: Branch, tag or commit of a hub ID.
    """
    read = internal("models.auto.video_processing_auto.get_video_processor_config")
    settings = read(source, revision=revision)
    return {name: settings[name] for name in ("size", "crop_size") if settings.get(name)}
