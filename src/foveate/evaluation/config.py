"""The configuration of an evaluation, and the identity of its run."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from foveate.compressors import Compressor
from foveate.core.errors import OptionError
from foveate.core.values import Value
from foveate.data.load import default_split
from foveate.data.names import FRAMES, FramesAs, parsed
from foveate.evaluation.identity import identity_of
from foveate.evaluation.names import REUSABLE, LoggerName, Reuse, check_numbers
from foveate.evaluation.source import OURS, digest, top_of, tree_hash
from foveate.models.loading.automatic import batch_size_for, resolved
from foveate.models.loading.loaded_model import LoadedModel
from foveate.models.loading.names import AUTO

_CANNOT_CHANGE_AN_ANSWER = tuple(
    "studies/ reference/ testing/ methods/ profiling/ analysis/ commands/ explore/ serving/ export/ __main__.py cli.py "
    "options.py compressors/kept_file.py compressors/recipe_file.py data/template.py core/progress.py core/quiet.py "
    "core/documents.py core/extras.py core/finished.py evaluation/loggers.py evaluation/ranks.py "
    "evaluation/identity.py evaluation/source.py evaluation/announcement.py".split()
)


@dataclass(frozen=True)
class EvalConfig(Value):
    """One evaluation.

    Attributes:
        compressor: The method.
        model: "reference", a checkpoint folder or a hub ID.
        data: Name of a data set, `<name>:<location>`, or the path of a table; see `load_samples`.
        split: One of its splits; empty means the one that results are usually reported on.
        limit: Number of questions; None means the whole split.
        seed: Seed of generated data.
        frames: Number of frames that are shown of each video.
        frames_as: "video" gives them as a video, "images" as images, which models without videos take too.
        max_new_tokens: Longest answer.
        dtype: Type of weights and activations: "float32", "bfloat16" or "float16"; "auto" becomes float32 on a CPU, and
            elsewhere that of the checkpoint.
        batch_size: Questions per batch, each with its own keys and values; "auto" becomes what fits the model and the
            memory (`on`). A batch for which memory does not suffice is answered in halves.
        device: "cpu", "cuda" or another accelerator; "auto" becomes the accelerator if there is one, else "cpu".
        out: Folder of records and encodings.
        on_error: "stop" raises an error for a question that cannot be asked, "skip" records it as failed.
        loggers: Lightning's loggers that receive metrics of a running evaluation.
        project: Name of the project for loggers that have projects.
        reuse: Results that are computed once and reused; see `Reuse`.
    """

    compressor: Compressor
    model: str = "reference"
    data: str = "scenes"
    split: str = ""
    limit: int | None = None
    seed: int = 0
    frames: int = FRAMES
    frames_as: FramesAs = "video"
    max_new_tokens: int = 32
    dtype: str = AUTO
    batch_size: int | Literal["auto"] = AUTO
    device: str = AUTO
    out: Path = Path("runs")
    on_error: Literal["stop", "skip"] = "stop"
    loggers: tuple[LoggerName, ...] = ()
    project: str = "foveate"
    reuse: tuple[Reuse, ...] = REUSABLE

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.split:
            object.__setattr__(self, "split", default_split(self.data))
        device, dtype = resolved(self.model, self.device, self.dtype)
        object.__setattr__(self, "device", device)
        object.__setattr__(self, "dtype", dtype)
        check_numbers(self.seed, self.batch_size, self.max_new_tokens, self.frames)

    def on(self, loaded: LoadedModel) -> "EvalConfig":
        """Returns the configuration with a number of questions per batch.

        Args:
            loaded: Its model.
        """
        return replace(self, batch_size=batch_size_for(loaded)) if self.batch_size == AUTO else self

    @property
    def per_batch(self) -> int:
        """Number of questions per batch.

        Raises:
            OptionError: It is "auto", which only a loaded model can resolve; see `on`.
        """
        if self.batch_size == AUTO:
            raise OptionError("batch_size='auto' is not resolved yet: expected a configuration that `on` returned")
        return self.batch_size

    @property
    def exact(self) -> bool:
        """True if the data type is so precise that rounding changes no answer."""
        return self.dtype == "float32"

    def identity(self, checkpoint: str, data: str) -> dict[str, str | int | None]:
        """Returns everything that can change an answer.

        In float32 neither batch size nor device nor reuse can; in half precision they do, by rounding.

        Args:
            checkpoint: See `checkpoint_identity`.
            data: Hash of the questions and images.
        """
        exact = self.exact
        return {
            "compressor": identity_of(self.compressor, "compressor"),
            "checkpoint": checkpoint,
            "data": parsed(self.data)[0],  # wherever it lies: the hash identifies its content
            "split": self.split,
            "data_hash": data,
            "decoding": "greedy",  # see `models.decoding`
            "max_new_tokens": self.max_new_tokens,
            "on_error": self.on_error,
            "dtype": self.dtype,
            "batch_size": None if exact else self.batch_size,
            "device": None if exact else self.device.split(":")[0],
            "reuse": None if exact else " ".join(sorted(self.reuse)),
            "code": code_hash(),
        }


def run_id(identity: Mapping[str, Any]) -> str:
    """Returns a hash of a run's identity, the name of its folder."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]


def checkpoint_identity(loaded: LoadedModel) -> str:
    """Returns the hash of a checkpoint, and of its family's code if that comes from another package.

    Raises:
        UnidentifiedValue: That code holds something that cannot be identified.
    """
    family = type(loaded.adapter)
    if top_of(family.__module__) == OURS:
        return loaded.identity
    return digest(loaded.identity, identity_of(family, f"family {family.__name__}"))[:16]


@cache
def code_hash() -> str:
    """Returns the hash of this package's code that can change an answer, and of the versions of what computes with it.

    Comments, docstrings and layout do not count, nor does code that only makes compressors, whose values count.
    """
    root = Path(str(files("foveate")))
    parts = [version("torch"), version("transformers")]
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not name.startswith(_CANNOT_CHANGE_AN_ANSWER):
            parts += [name, tree_hash(path.read_bytes(), name)]
    return digest(*parts)[:16]
