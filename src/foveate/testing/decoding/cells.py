"""Which mode of decoding works with compression before or inside the language model, found by running each.

Whoever runs it gives the reference (`Truth`): logits that are computed without this package's code. The repository's
own one is `tests/oracle`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from foveate.core.errors import FoveateError
from foveate.testing.decoding.generating import (
    adding,
    beam_search,
    generating,
    giving,
    guessing,
    guided,
    limited,
    next_turn,
    other_model,
    streamed,
)
from foveate.testing.decoding.passes import (
    attentions,
    attentions_of_generate,
    compiled,
    forward,
    going_on,
    hidden_states,
    loop,
    loss,
    training,
)
from foveate.testing.decoding.setting import PLACES, Differs, NotRunnable, Setting, Truth

USUAL = "LLaVA-1.5"


@dataclass(frozen=True)
class Mode:
    """A way of using the model.

    Attributes:
        name: For readers.
        check: Does it while a compressor is attached, and raises `Differs` if the result is not the reference's.
        rows: How many prompts it can be given.
    """

    name: str
    check: Callable[[Setting], None]
    rows: int = 2


MODES: Sequence[Mode] = (
    Mode("greedy search", generating()),
    Mode("sampling", generating(do_sample=True)),
    Mode("several sequences", generating(do_sample=True, num_return_sequences=2)),
    Mode("beam search", beam_search),
    Mode("`max_length` and `min_length`", limited),
    Mode("a logits processor that runs the model on a text", adding("text")),
    Mode("a logits processor that runs the model on other images (contrastive decoding)", adding("images")),
    Mode("classifier-free guidance with a negative prompt", guided),
    Mode("assisted decoding", guessing(assistant_model=other_model), rows=1),
    Mode("prompt lookup", guessing(prompt_lookup_num_tokens=3), rows=1),
    Mode("static cache", generating(cache_implementation="static")),
    Mode("`use_cache=False`", generating(use_cache=False)),
    Mode("chunked prefill", generating(prefill_chunk_size=4)),
    Mode("a streamer", streamed, rows=1),
    Mode("hand-written loop over `forward`", loop()),
    Mode("hand-written loop over `forward` with a static cache", loop(static=True)),
    Mode("`forward` from a copy of the cache", going_on("copied")),
    Mode("`forward` from the cache when tokens were cropped from it", going_on("cropped")),
    Mode("next turn from the cache, by `forward`", next_turn("forward")),
    Mode("next turn from the cache, by `generate`", next_turn("generate")),
    Mode("`forward`", forward()),
    Mode("`forward` without a cache", forward(use_cache=False)),
    Mode("`logits_to_keep`", forward(logits_to_keep=1)),
    Mode("`torch.compile`", compiled),
    Mode("`output_attentions`", attentions),
    Mode("`output_attentions` of `generate`", attentions_of_generate),
    Mode("`output_hidden_states`", hidden_states),
    Mode("a loss (`labels`)", loss),
    Mode("a training step", training()),
    Mode("a training step with gradient checkpointing", training(checkpointed=True)),
    Mode("gradients of logits", training(labelled=False)),
    Mode("gradients of logits with gradient checkpointing", training(checkpointed=True, labelled=False)),
    Mode("`inputs_embeds`", giving("inputs_embeds")),
    Mode("`mm_encoder_outputs`", giving("mm_encoder_outputs")),
    Mode("`position_ids` of the caller", giving("position_ids")),
    Mode("a mask of four dimensions", giving("4-D mask")),
)


def cell(mode: Mode, place: str, truth: Truth, family: str = USUAL) -> str:
    """Returns "works", "refused: " and the sentence, "differs: " and how, or "-" where the stock model cannot do it."""
    torch.manual_seed(0)
    try:
        mode.check(Setting(family, place, truth, mode.rows))
    except NotRunnable:
        return "-"
    except Differs as error:
        return f"differs: {error}"
    except (FoveateError, ValueError) as error:
        return f"refused: {error}"
    return "works"


def table(truth: Truth, modes: Sequence[Mode] | None = None) -> str:
    """Returns modes and places as Markdown, with the sentences of refusals below."""
    signs: dict[str, str] = {}
    rows = [["mode", *PLACES], ["---"] * (1 + len(PLACES))]
    for mode in MODES if modes is None else modes:
        cells = [cell(mode, place, truth) for place in PLACES]
        for number, found in enumerate(cells):
            if sentence := found.removeprefix("refused: ") * found.startswith("refused: "):
                cells[number] = f"refused ({signs.setdefault(sentence, str(len(signs) + 1))})"
        rows.append([mode.name, *cells])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"{sign}. {sentence}" for sentence, sign in signs.items())])


def exceptions(truth: Truth, family: str, modes: Sequence[Mode] | None = None) -> list[str]:
    """Returns as lines of Markdown what differs between a family's row and that of the table."""
    lines = []
    for mode in MODES if modes is None else modes:
        found: dict[str, list[str]] = {}
        for place in PLACES:
            own, usual = cell(mode, place, truth, family), cell(mode, place, truth)
            if own.split(":")[0] != usual.split(":")[0]:
                found.setdefault("the stock model cannot do this" if own == "-" else own, []).append(place)
        for own, places in found.items():
            where = "" if len(places) == len(PLACES) else f" ({'; '.join(places)})"
            lines.append(f"- {family}, {mode.name}{where}: {own}")
    return lines
