"""The model and the data of a page, and what the page shows of them."""

import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from filecmp import cmp
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from foveate.analysis.clips import KeptClip, kept_clip, scaled
from foveate.compressors import Identity
from foveate.core.budget import resolve_keep
from foveate.core.errors import DataError, FoveateError, UnknownMethod, message_of, shown
from foveate.data.clip import Clip
from foveate.data.load import default_split, load_samples
from foveate.data.sample import VQASample
from foveate.data.video_file import is_video
from foveate.evaluation.prompts import question_text
from foveate.evaluation.ranks import notice
from foveate.explore.choice import Choice, options_of
from foveate.explore.drawing import SIDE, Pane, panes_of, panes_of_clip
from foveate.explore.inspection import Inspection, Maps, Prompt, inspect, maps_of, read_media, takes_videos
from foveate.explore.plan import USUAL, USUAL_OF_VIDEOS, Plan
from foveate.methods.fitting import for_model, method, options_on
from foveate.methods.registry import METHODS, VIDEO, is_recipe_file
from foveate.models.loading.automatic import resolved
from foveate.models.loading.load import LoadedModel, load
from foveate.models.loading.names import REFERENCE_VIDEO, VIDEO_FAMILIES

SHARE = 0.11
"""Share of the patches that a method without a budget keeps."""
_ANNOTATED_ONLY = "evidence"


@dataclass(frozen=True, eq=False)
class Seen:
    """An image or a video and a question with the answer from all patches.

    Attributes:
        plan: The plan of a page that shows them.
        prompt: The prompt.
        full: The inspection without compression.
        maps: The attention maps.
        panes: The views of the image, or the frames of the video.
        reference: Reference answers of the data set; empty if they are unknown.
        clip: The video with all patches; None of an image.
    """

    plan: Plan
    prompt: Prompt
    full: Inspection
    maps: Maps
    panes: tuple[Pane, ...]
    reference: str
    clip: KeptClip | None = None

    def panes_at(self, frame: int) -> tuple[Pane, ...]:
        """Returns the views of the image, or one frame of the video."""
        return self.panes[frame : frame + 1] if self.clip else self.panes


@dataclass(frozen=True, eq=False)
class Session:
    """A loaded model with the questions to choose from.

    Attributes:
        plan: The page at its start.
        loaded: The model.
        samples: The questions about one image or one video.
    """

    plan: Plan
    loaded: LoadedModel
    samples: tuple[VQASample, ...]

    @classmethod
    def opened(cls, plan: Plan) -> "Session":
        """Returns the session of a plan, after one answer about a blank image, whose time does not count.

        Raises:
            FoveateError: Model, data or a method cannot be used.
        """
        split = plan.split or default_split(plan.data)
        samples = load_samples(plan.data, split, plan.limit, plan.seed, plan.frames)
        loaded = load(plan.model, *resolved(plan.model, plan.device, plan.dtype), companion=plan.companion)
        usable = _usable(plan, samples, loaded)
        index = min(plan.index, len(usable) - 1)
        about_video = is_video(plan.image) if plan.image else usable[index].video is not None
        methods = plan.methods or (USUAL_OF_VIDEOS if about_video else USUAL)
        session = cls(replace(plan, index=index, methods=methods), loaded, usable)
        for choice in methods:
            method(choice.name)
        if loaded.adapter.kind("image"):
            inspect(Prompt.of(loaded, Image.new("RGB", (336, 336), "white"), "?", 1), Identity())
        return session

    @property
    def names(self) -> list[str]:
        """Names of the methods that the page offers, those for videos if the model takes videos."""
        left_out = {_ANNOTATED_ONLY, *(() if takes_videos(self.loaded) else VIDEO)}
        own = [choice.name for choice in self.plan.methods]
        return list(dict.fromkeys([*(name for name in METHODS if name not in left_out), *own]))

    @property
    def device(self) -> str:
        """Device and precision of the model, such as "cpu, float32"."""
        return f"{self.loaded.device}, {str(self.loaded.model.dtype).removeprefix('torch.')}"

    def question(self, index: int) -> str:
        """Returns the words of a question of the data."""
        return question_text(self.loaded, self.samples[index])

    def see(self, file: Path | None, index: int, question: str) -> Seen:
        """Returns an image or a video and a question with the answer from all patches.

        Args:
            file: The file of an image or a video; None means those of the data's question.
            index: Number of the data's question.
            question: The question.

        Raises:
            FoveateError: The file cannot be read, or the model cannot be asked.
        """
        sample = None if file else self.samples[index]
        media = self._media(file, index)
        if not question.strip():
            raise DataError("there is no question: write one about the image or the video")
        known = sample is not None and question == self.question(index)
        prompt = Prompt.of(self.loaded, media, question, self.plan.new_tokens, sample if known else None)
        full = inspect(prompt, Identity())
        shown_as = file and self._path_of(file)
        plan = replace(self.plan, image=shown_as, index=self.plan.index if file else index)
        plan = replace(plan, question=None if known else question)
        reference = " or ".join(dict.fromkeys(sample.references)) if sample and known else ""
        clip = _clip_of(prompt, media) if isinstance(media, Clip) else None
        panes = panes_of_clip(clip) if clip else panes_of(prompt)
        return Seen(plan, prompt, full, maps_of(prompt, full.words), panes, reference, clip)

    def _media(self, file: Path | None, index: int) -> Image.Image | Clip:
        """Returns the image or the video of a file, or of a question of the data if there is none."""
        if file:
            return read_media(file, self.plan.frames)
        return self.samples[index].clip if self.samples[index].video else self.samples[index].image

    def _path_of(self, file: Path) -> Path:
        """Returns the path that the page was started with if it has copied that file, else the file's name."""
        given = self.plan.image
        own = given is not None and given.name == file.name and given.is_file() and cmp(given, file, shallow=False)
        return given if given is not None and own else Path(file.name)  # the folder of an uploaded file is not known

    def inspected(self, seen: Seen, choice: Choice) -> Inspection:
        """Returns what a method keeps and answers.

        Raises:
            FoveateError: The method is not offered, or cannot be used with this model, image or options.
        """
        self._check(choice.name)
        keep = None if is_recipe_file(choice.name) else choice.keep
        compressor = for_model(choice.name, keep, dict(choice.options), self.loaded.adapter)
        return inspect(seen.prompt, compressor)

    def _check(self, name: str) -> None:
        """Checks a name that the page sends: one of another module would import it."""
        if name not in self.names:
            raise UnknownMethod(f"method {shown(name)} is not offered; the page offers {', '.join(self.names)}")

    def patches_at_start(self) -> int:
        """Returns the number of patches of the page's first image or video; that of the tower if it cannot be used."""
        try:
            return self.loaded.media_inputs([self._media(self.plan.image, self.plan.index)])[1][0].patches
        except FoveateError:  # the page says why, when it asks
            return self.loaded.adapter.tower.grid.patches

    def default_keep(self, choice: Choice, patches: int) -> int:
        """Returns the number of patches that a method of the plan keeps."""
        return resolve_keep(SHARE if choice.keep is None else choice.keep, patches)

    def options_hint(self, name: str) -> str:
        """Returns the options of a method with their values on this model, such as "start_layer=5"."""
        self._check(name)
        recipe = method(name)
        found: dict[str, Any] = {
            option: parameter.default
            for option, parameter in signature(recipe).parameters.items()
            if option != "keep" and parameter.default is not Parameter.empty
        }
        return ", ".join(f"{o}={v!r}" for o, v in (found | options_on(recipe, self.loaded.adapter)).items())


def _usable(plan: Plan, samples: Sequence[VQASample], loaded: LoadedModel) -> tuple[VQASample, ...]:
    """Returns the questions about one image or, if the model takes videos, one video; notes those that are left out.

    Raises:
        DataError: There are none.
    """
    videos = [sample for sample in samples if sample.video and not takes_videos(loaded)]
    usable = tuple(s for s in samples if s.single and not s.problem and not (videos and s.video))
    if not usable and videos:
        raise DataError(
            f"the questions of {plan.data!r} are about videos, which {type(loaded.model).__name__} does not take: give "
            f"a model of {VIDEO_FAMILIES}, such as {REFERENCE_VIDEO!r}"
        )
    if not usable:
        raise DataError(
            f"none of {len(samples)} questions of {plan.data!r} is about one image or video: raise --limit, or give "
            "others"
        )
    left_out = {"several images": sum(s.several for s in samples), "videos, which the model does not take": len(videos)}
    for what, count in left_out.items():
        if count:
            notice(f"{count} of {len(samples)} questions of {plan.data!r} are about {what}: left out here")
    return usable


def _clip_of(prompt: Prompt, clip: Clip) -> KeptClip:
    """Returns a video with all its patches and the evidence."""
    video, evidence = prompt.arrangement, prompt.evidence
    share = None if evidence is None else torch.from_numpy(evidence)[None].float()
    return kept_clip(scaled(clip, SIDE), video, range(video.patches), (), share)


def choice_of(name: str, keep: float, options: str) -> Choice:
    """Returns the choice that the controls of a column show.

    Raises:
        OptionError: The options are not spelled as expected.
    """
    return Choice(name, round(keep), options_of(options))


def failure(error: Exception) -> str:
    """Returns the message of an error for the page; the traceback of one that is not ours is printed."""
    if isinstance(error, FoveateError):
        return str(error)
    traceback.print_exception(error)
    return f"{type(error).__name__}: {message_of(error)}"
