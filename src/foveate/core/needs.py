"""Needs: what plug-ins can read. A need is a value, and the key of its answer in the `Trace`."""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Literal

from foveate.core.layers import Layers
from foveate.core.values import Count, Natural, Positive, Value


@dataclass(frozen=True)
class Need(Value):
    """Base of all needs.

    Attributes:
        per_question: Whether the answer depends on the question. If no need does, all questions about an image share
            its visual tokens and their keys and values.
        in_decoder: Whether the language model answers the need, at the block of a cut; all other needs are answered
            before it runs.
        patch_axis: Axis of the answer's patches; None if the answer has none.
        carried: Whether a cut inside the language model can read the answer.
    """

    per_question: ClassVar[bool] = False
    in_decoder: ClassVar[bool] = False
    patch_axis: ClassVar[int | None] = None
    carried: ClassVar[bool] = True


@dataclass(frozen=True)
class ClsRows(Need):
    """Softmax rows of the [CLS] query over the patches: Float[batch layer head patch], float32.

    The [CLS] column is left out, and the rest is not renormalised.

    Attributes:
        layers: Layers of the tower.
    """

    layers: Layers
    patch_axis: ClassVar[int | None] = -1


@dataclass(frozen=True)
class ReceivedRows(Need):
    """Attention that each patch receives in one layer, averaged over all queries: Float[batch head patch].

    The query of [CLS] counts, its column is left out. Towers without [CLS] answer this need too.

    Attributes:
        layer: Layer of the tower.
        others: Whether only the queries of other patches count: neither that of [CLS] nor the patch's own.
    """

    layer: int
    others: bool = False
    patch_axis: ClassVar[int | None] = -1


@dataclass(frozen=True)
class PoolingRows(Need):
    """Softmax rows of a pooling head's learned query over the patches: Float[batch head patch], float32.

    The head of SigLIP reads the output of the feature layer after the tower's final norm
    (`functional.pooling_head.pooled_by_head`); in a tower of Qwen the mean query of a frame in the last layer is meant
    (`mean_query_rows`). Where the model pools patches between tower and language model, so are the rows, in the
    same way. In a video every frame has a softmax of its own. A tower without this head has received attention instead
    (`Fallback`).
    """

    patch_axis: ClassVar[int | None] = -1


@dataclass(frozen=True)
class FrameVectors(Need):
    """A vector for each frame of a video, one for an image: Float[batch frame width].

    It is the output of the pooling head of `PoolingRows`, for an image in tiles that of the whole image; in a tower of
    Qwen the mean of the frame's tokens. A tower without this head has the mean of the frame's projected features
    instead (`Fallback`).
    """


@dataclass(frozen=True)
class ClsQuery(Need):
    """Query of [CLS] in one layer, before scaling: Float[batch head dim].

    Attributes:
        layer: Layer of the tower.
    """

    layer: int


@dataclass(frozen=True)
class Keys(Need):
    """Keys of the patches, then of [CLS] if there is one, in one layer: Float[batch source head dim].

    Attributes:
        layer: Layer of the tower.
    """

    layer: int
    carried: ClassVar[bool] = False


@dataclass(frozen=True)
class Features(Need):
    """Features of the patches: Float[batch patch dim].

    Attributes:
        projected: Whether they are read after the projector instead of before it.
    """

    projected: bool = False
    patch_axis: ClassVar[int | None] = -2


@dataclass(frozen=True)
class Sensitivity(Need):
    """Change of each patch's projected features for small changes of its features: Float[batch patch].

    The mean over random directions u of length 1 of |P(x + step u) - P(x - step u)| / (2 step), where P is the
    projector and x the features before it. All patches of all images have the same directions. The projector computes
    in float32 at least.

    Attributes:
        directions: Number of directions.
        step: Length of a step.
        seed: Seed of the directions, which NumPy draws.
    """

    directions: Count = 64
    step: Positive = 0.01
    seed: Natural = 0
    patch_axis: ClassVar[int | None] = -1


@dataclass(frozen=True)
class Deepstack(Need):
    """DeepStack features, which some models add to visual tokens after blocks: Float[batch level patch dim]."""

    patch_axis: ClassVar[int | None] = -2


@dataclass(frozen=True)
class Downsampled(Need):
    """Features before the projector of the image at lower resolution, in raster order: Float[batch token dim].

    The image is resized to a smaller grid, and the tower interpolates its positions.

    Attributes:
        rows: Rows of that grid.
        columns: Columns of that grid.
    """

    rows: Count
    columns: Count


@dataclass(frozen=True)
class AlignedPatches(Need):
    """Patches in the space that a contrastive tower shares with its text encoder: Float[batch patch dim].

    They are read after the final norm and the projection to that space, and are not normalised to length 1.

    Attributes:
        normed: Whether they pass the final norm; without it they are linear in the features.
    """

    normed: bool = True
    patch_axis: ClassVar[int | None] = -2


@dataclass(frozen=True)
class AlignedText(Need):
    """The question in the space of `AlignedPatches`, not normalised: Float[batch segment dim].

    A question longer than the text encoder's window is cut into segments. Rows of zeros pad questions with fewer
    segments.

    Attributes:
        truncated: Whether only the first segment is read.
    """

    truncated: bool = False
    per_question: ClassVar[bool] = True


@dataclass(frozen=True)
class AlignedWords(Need):
    """Every token of the question in the space of `AlignedPatches`, not normalised: Float[batch word dim].

    The tokens are those of the text encoder, special ones included; of a longer question they are those of the first
    window, whose last token is the question's. Rows of zeros pad.
    """

    per_question: ClassVar[bool] = True


@dataclass(frozen=True)
class QuestionEmbeddings(Need):
    """Input embeddings of the question's tokens: Float[batch word dim]; rows of zeros pad."""

    per_question: ClassVar[bool] = True


@dataclass(frozen=True)
class ResponseRows(Need):
    """Attention of the uncompressed model's greedy answer to the visual tokens: Float[batch layer head patch].

    These are softmax rows over all keys, averaged over the tokens that produce the answer: the last prompt token and
    all answer tokens but the last.

    Attributes:
        layers: Blocks of the language model; empty means all.
    """

    layers: tuple[int, ...]
    per_question: ClassVar[bool] = True
    patch_axis: ClassVar[int | None] = -1


@dataclass(frozen=True)
class Fingerprint(Need):
    """A number that depends on the image alone, which seeds random choices: Int[batch]."""


@dataclass(frozen=True)
class PixelStatistic(Need):
    """A statistic of each patch's pixels, computed without a network: Float[batch patch], float32.

    The pixels are those that the tower receives, RGB in [0, 1] before the image processor's normalisation, so the image
    processor must be known. A visual token that merges several patches of the tower has their mean.

    Attributes:
        name: "saturation" is the mean of max(R, G, B) - min(R, G, B), "contrast" the standard deviation of luminance,
            "edges" the mean length of the gradient of luminance; see `functional.pixel_filters`.
    """

    name: Literal["saturation", "contrast", "edges"]
    patch_axis: ClassVar[int | None] = -1


PIXEL_STATISTICS = tuple(PixelStatistic(name) for name in ("saturation", "contrast", "edges"))


@dataclass(frozen=True)
class EvidenceShare(Need):
    """Share of each patch that shows each thing of the question's evidence: Float[batch thing patch].

    Only annotated data has evidence. Rows of zeros pad questions with fewer things.
    """

    per_question: ClassVar[bool] = True
    patch_axis: ClassVar[int | None] = -1


@dataclass(frozen=True)
class PromptRows(Need):
    """Attention of the prompt to the visual tokens in one decoder block: Float[batch head patch], float32.

    Attributes:
        layer: The block. A block before the cut is read as it ran; for the block at the cut, attention is computed in
            advance from the states that enter it.
        query: Queries, averaged: "last" is the last prompt token; "mean" all tokens after the image; "raters" those of
            them that are most similar to the image's input embeddings (SparseVLM); "visual" all visual tokens; "all"
            every token, the image's too.
        rotary: Whether queries and keys are rotated by their positions.
        over: Keys of the softmax: "all" that the query can attend to, or "patches", the visual tokens only.
        debiased: Whether each probability is divided by that of an all-ones query and key at the same positions
            (SparseVLM+).
        heads: "each" for an answer per head; "max" for the greatest head of every query before queries are averaged,
            as a single head (FitPrune).
    """

    layer: int
    query: Literal["last", "mean", "raters", "visual", "all"] = "last"
    rotary: bool = True
    over: Literal["all", "patches"] = "all"
    debiased: bool = False
    heads: Literal["each", "max"] = "each"
    per_question: ClassVar[bool] = True
    in_decoder: ClassVar[bool] = True
    patch_axis: ClassVar[int | None] = -1


@dataclass(frozen=True)
class TokenKeys(Need):
    """Keys of every token, rotated by their positions, in a block before the cut: Float[batch token head dim].

    Attributes:
        layer: The block.
    """

    layer: int
    per_question: ClassVar[bool] = True
    in_decoder: ClassVar[bool] = True


@dataclass(frozen=True)
class TokenStates(Need):
    """States of every token at the cut, after the decoder's final norm: Float[batch token dim]."""

    per_question: ClassVar[bool] = True
    in_decoder: ClassVar[bool] = True


@dataclass(frozen=True)
class PatchStates(Need):
    """States of the visual tokens at the cut, as they enter its block: Float[batch patch dim]."""

    per_question: ClassVar[bool] = True
    in_decoder: ClassVar[bool] = True
    patch_axis: ClassVar[int | None] = -2


@dataclass(frozen=True)
class TokenRoles(Need):
    """Role of every token at the cut: Int[batch token], a `Role`; visual tokens are in the order of the patch axis."""

    per_question: ClassVar[bool] = True
    in_decoder: ClassVar[bool] = True


class Role(IntEnum):
    """The role of a token in the decoder's sequence."""

    PADDING = 0
    BEFORE = 1  # text before the last visual token
    VISUAL = 2
    QUESTION = 3  # text after the last visual token
    SEPARATOR = 4  # token between visual tokens that shows no patch, such as the end of a row
