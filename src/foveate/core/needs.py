"""What a scorer may ask of a model. A need is a value, and the key under which the answer lies in the `Trace`."""

from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar, Literal

from foveate.core.layers import Layers
from foveate.core.values import Count, Value


@dataclass(frozen=True)
class Need(Value):
    """One thing to record.

    `per_question` says whether the answer depends on the question; if not, all questions about an image share the
    compressed image and the keys and values that the language model computes for it. `in_decoder` says that the
    language model answers, at the block where a `DecoderCompressor` cuts; all other needs are answered before it runs.
    `patch_axis` says where the answer's patches are, so that it can be carried to such a block; None if it has none.
    With `carried` false it cannot be.
    """

    per_question: ClassVar[bool] = False
    in_decoder: ClassVar[bool] = False
    patch_axis: ClassVar[int | None] = None
    carried: ClassVar[bool] = True


@dataclass(frozen=True)
class ClsRows(Need):
    """Softmax rows of the [CLS] query over the patches: Float[batch layer head patch], float32.

    The [CLS] column is left out and the rest not renormalised.
    """

    layers: Layers
    patch_axis: ClassVar[int | None] = -1


@dataclass(frozen=True)
class ReceivedRows(Need):
    """Attention that each patch receives in one layer, averaged over all queries, [CLS] too: Float[batch head patch].

    The [CLS] column is left out. Towers without [CLS] have it as well.
    """

    layer: int
    patch_axis: ClassVar[int | None] = -1


@dataclass(frozen=True)
class ClsQuery(Need):
    """Query of [CLS] in one layer, before scaling: Float[batch head dim]."""

    layer: int


@dataclass(frozen=True)
class Keys(Need):
    """Keys of one layer of the tower: Float[batch source head dim]; the patches, then [CLS] if there is one."""

    layer: int
    carried: ClassVar[bool] = False


@dataclass(frozen=True)
class Features(Need):
    """The patches as the tower gives them, or after the projector: Float[batch patch dim]."""

    projected: bool = False
    patch_axis: ClassVar[int | None] = -2


@dataclass(frozen=True)
class Deepstack(Need):
    """What some language models add to their visual tokens behind their first blocks: Float[batch level patch dim]."""

    patch_axis: ClassVar[int | None] = -2


@dataclass(frozen=True)
class Downsampled(Need):
    """Features before the projector of the image at lower resolution, in raster order: Float[batch token dim].

    The image is resized to `rows` x `columns` patches, and the tower interpolates its positions.
    """

    rows: Count
    columns: Count


@dataclass(frozen=True)
class AlignedPatches(Need):
    """Patches in the space that the tower's contrastive twin shares with text: Float[batch patch dim].

    After the final norm and the projection to that space; not normalised to length 1.
    """

    patch_axis: ClassVar[int | None] = -2


@dataclass(frozen=True)
class AlignedText(Need):
    """The question in the same space, not normalised: Float[batch segment dim].

    A question longer than the text encoder's window is cut into segments, or with `truncated` to the first one. Rows
    of zeros pad questions with fewer segments.
    """

    truncated: bool = False
    per_question: ClassVar[bool] = True


@dataclass(frozen=True)
class QuestionEmbeddings(Need):
    """The language model's input embeddings of the question's words: Float[batch word dim]; rows of zeros pad."""

    per_question: ClassVar[bool] = True


@dataclass(frozen=True)
class ResponseRows(Need):
    """What the uncompressed model looks at while it answers: Float[batch layer head patch].

    Softmax rows, over all keys, of the tokens that produce its greedy answer (the last prompt token and all answer
    tokens but the last), averaged over them; layers of the decoder, all if none is named.
    """

    layers: tuple[int, ...]
    per_question: ClassVar[bool] = True
    patch_axis: ClassVar[int | None] = -1


@dataclass(frozen=True)
class Fingerprint(Need):
    """A number that depends on the image alone: Int[batch]. Seeds whatever is random per image."""


@dataclass(frozen=True)
class PixelStatistic(Need):
    """A statistic of each patch's pixels, computed without a network: Float[batch patch], float32.

    The pixels are those that the tower receives, but for the image processor's normalisation: RGB in [0, 1]. So the
    image processor must be known. A visual token that is made of several patches has their mean.

    Attributes:
        name: "saturation" is the mean of max(R, G, B) - min(R, G, B), "contrast" the standard deviation of luminance,
            "edges" the mean length of its gradient; see `functional.pixel_filters`.
    """

    name: Literal["saturation", "contrast", "edges"]
    patch_axis: ClassVar[int | None] = -1


PIXEL_STATISTICS = tuple(PixelStatistic(name) for name in ("saturation", "contrast", "edges"))


@dataclass(frozen=True)
class EvidenceShare(Need):
    """Share of each patch that shows each thing the question needs: Float[batch thing patch].

    Only annotated data has it. Questions that need fewer things have rows of zeros.
    """

    per_question: ClassVar[bool] = True
    patch_axis: ClassVar[int | None] = -1


@dataclass(frozen=True)
class PromptRows(Need):
    """Attention that the prompt pays to the visual tokens in one decoder block: Float[batch head patch], float32.

    Attributes:
        layer: The block. One before the cut is read as it ran; the block at the cut is asked ahead, from the states
            that enter it.
        query: "last" is the last prompt token; "mean" all tokens after the image; "raters" those of them to which
            the image's input embeddings are most alike (SparseVLM); "all" every token, the image's own too.
            Several queries are averaged.
        rotary: Whether queries and keys carry their positions.
        over: Softmax over "all" keys that the query may see, or over the visual ones only.
        debiased: Divide each probability by what an all-ones query and key would score at those positions (SparseVLM+).
    """

    layer: int
    query: Literal["last", "mean", "raters", "all"] = "last"
    rotary: bool = True
    over: Literal["all", "patches"] = "all"
    debiased: bool = False
    per_question: ClassVar[bool] = True
    in_decoder: ClassVar[bool] = True
    patch_axis: ClassVar[int | None] = -1


@dataclass(frozen=True)
class TokenKeys(Need):
    """Keys, with positions, of every token in a block before the cut: Float[batch token head dim]."""

    layer: int
    per_question: ClassVar[bool] = True
    in_decoder: ClassVar[bool] = True


@dataclass(frozen=True)
class TokenStates(Need):
    """States of every token at the cut, after the decoder's final norm: Float[batch token dim]."""

    per_question: ClassVar[bool] = True
    in_decoder: ClassVar[bool] = True


@dataclass(frozen=True)
class TokenRoles(Need):
    """What every token at the cut is: Int[batch token], a `Role`; visual tokens come in the order of the patch axis."""

    per_question: ClassVar[bool] = True
    in_decoder: ClassVar[bool] = True


class Role(IntEnum):
    """What a token of the decoder's sequence is."""

    PADDING = 0
    BEFORE = 1  # text up to the last visual token
    VISUAL = 2
    QUESTION = 3  # text after it
    SEPARATOR = 4  # stands between visual tokens, at no patch's place, such as at the end of a row
