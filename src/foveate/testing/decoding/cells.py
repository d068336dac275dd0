"""The modes of decoding, and the tables of those that work with compression, made by running each.

The caller provides the reference (`Reference`): logits computed without this package's code. That of this repository is
`tests/oracle`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from foveate.core.errors import FoveateError
from foveate.testing.decoding.generating import (
    assisted,
    beam_search,
    generating,
    guided,
    limited,
    next_turn,
    other_model,
    streamed,
    with_input,
    with_processor,
)
from foveate.testing.decoding.passes import (
    attentions,
    attentions_of_generate,
    compiled,
    continued,
    forward,
    hidden_states,
    loop,
    loss,
    training,
)
from foveate.testing.decoding.setting import COMPRESSIONS, Differs, NotRunnable, Reference, Setting

USUAL = "LLaVA-1.5"


@dataclass(frozen=True)
class Mode:
    """A way of using the model.

    Attributes:
        name: The name in the table.
        check: Runs the mode with a compressor attached, and raises `Differs` if the result differs from the reference.
        rows: Number of prompts in the batch.
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
    Mode("a logits processor that runs the model on a text", with_processor("text")),
    Mode("a logits processor that runs the model on other images (contrastive decoding)", with_processor("images")),
    Mode("classifier-free guidance with a negative prompt", guided),
    Mode("assisted decoding", assisted(assistant_model=other_model), rows=1),
    Mode("prompt lookup", assisted(prompt_lookup_num_tokens=3), rows=1),
    Mode("static cache", generating(cache_implementation="static")),
    Mode("`use_cache=False`", generating(use_cache=False)),
    Mode("chunked prefill", generating(prefill_chunk_size=4)),
    Mode("a streamer", streamed, rows=1),
    Mode("hand-written loop over `forward`", loop()),
    Mode("hand-written loop over `forward` with a static cache", loop(static=True)),
    Mode("`forward` from a copy of the cache", continued("copied")),
    Mode("`forward` from the cache when tokens were cropped from it", continued("cropped")),
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
    Mode("`inputs_embeds`", with_input("inputs_embeds")),
    Mode("`mm_encoder_outputs`", with_input("mm_encoder_outputs")),
    Mode("`position_ids` of the caller", with_input("position_ids")),
    Mode("a mask of four dimensions", with_input("4-D mask")),
)


def cell(mode: Mode, compression: str, reference: Reference, family: str = USUAL) -> str:
    """Runs a mode and returns the text of its cell.

    Args:
        mode: The mode.
        compression: One of `COMPRESSIONS`.
        reference: Computes the reference logits.
        family: Name of the model family.

    Returns:
        "works", "refused: " with the error, "differs: " with the difference, or "-" if the stock model does not support
        the mode.
    """
    torch.manual_seed(0)
    try:
        mode.check(Setting(family, compression, reference, mode.rows))
    except NotRunnable:
        return "-"
    except Differs as error:
        return f"differs: {error}"
    except (FoveateError, ValueError) as error:
        return f"refused: {error}"
    return "works"


def table(reference: Reference, modes: Sequence[Mode] | None = None) -> str:
    """Returns modes and ways of compression as Markdown, with the errors below."""
    signs: dict[str, str] = {}
    rows = [["mode", *COMPRESSIONS], ["---"] * (1 + len(COMPRESSIONS))]
    for mode in MODES if modes is None else modes:
        cells = [cell(mode, compression, reference) for compression in COMPRESSIONS]
        for number, text in enumerate(cells):
            if sentence := text.removeprefix("refused: ") * text.startswith("refused: "):
                cells[number] = f"refused ({signs.setdefault(sentence, str(len(signs) + 1))})"
        rows.append([mode.name, *cells])
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([*lines, "", *(f"{sign}. {sentence}" for sentence, sign in signs.items())])


def exceptions(reference: Reference, family: str, modes: Sequence[Mode] | None = None) -> list[str]:
    """Returns a line of Markdown for each of a family's cells that differs from the table.

    Where even the first mode is refused, one line is about all modes.
    """
    lines, never = [], {}
    for compression in COMPRESSIONS:
        if (text := cell(MODES[0], compression, reference, family)).startswith("refused"):
            never.setdefault(text, []).append(compression)
    lines += [f"- {family}, all modes ({'; '.join(where)}): {text}" for text, where in never.items()]
    left = [compression for compression in COMPRESSIONS if not any(compression in where for where in never.values())]
    for mode in MODES if modes is None else modes:
        differing: dict[str, list[str]] = {}
        for compression in left:
            own, usual = cell(mode, compression, reference, family), cell(mode, compression, reference)
            if own.split(":")[0] != usual.split(":")[0]:
                text = "the stock model cannot do this" if own == "-" else own
                differing.setdefault(text, []).append(compression)
        for own, compressions in differing.items():
            where = "" if len(compressions) == len(left) else f" ({'; '.join(compressions)})"
            lines.append(f"- {family}, {mode.name}{where}: {own}")
    return lines
