"""What evaluations share. Each reuse can be switched off, and none changes an answer in float32.

- encodings: features and [CLS] rows of an image. The tower runs once per model and data, not once per evaluation.
- images: keys and values of an image, computed once for all questions about it, where the method allows.
- texts: keys and values of the text before the images, computed once per batch.
- drafts: a reference answer is read together with its question; only what the model says instead is decoded.
- answers: a conversation in which the language model is given, bit by bit, what another evaluation into the same folder
  has given it, is not asked again. Only in float32, and only if it is named: the last digit of a log-probability
  depends on the batch, and so on what was evaluated before.
- lengths: images with long prompts come first, so that a batch holds prompts of like length.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from weakref import WeakKeyDictionary

import torch

from foveate.core.compression import Compressed
from foveate.core.needs import Deepstack
from foveate.models.loading.load import LoadedModel
from foveate.models.runtime.generation import Conversation
from foveate.models.runtime.greedy import Answers

_CONVERSATIONS = 200_000  # remembered; some 100 bytes each


class AnswerReuse:
    """What a model has said in conversations, to be said again."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, tuple[list[list[int]], list[float]]] = OrderedDict()
        self.repeated = 0

    def answers(
        self,
        compressed: Compressed,
        conversations: Sequence[Conversation],
        rules: Sequence[object],
        ask: Callable[[list[int]], Answers],
    ) -> Answers:
        """The answers in all conversations, of which only the unknown ones are held.

        Args:
            compressed: One row per conversation.
            conversations: The questions.
            rules: For each conversation whatever else decides what is said.
            ask: The answers in the conversations at these places.
        """
        keys = [_key(compressed, row, *rest) for row, rest in enumerate(zip(conversations, rules, strict=True))]
        new = [row for row, key in enumerate(keys) if key not in self._known]
        self.repeated += len(keys) - len(new)
        if new:
            found, start = ask(new), 0
            likely = found.log_probability.tolist()
            for row in new:
                end = start + len(conversations[row].suffixes)
                self._known[keys[row]] = found.tokens[start:end], likely[start:end]
                start = end
        known = [self._known[key] for key in keys]
        while len(self._known) > _CONVERSATIONS:
            self._known.popitem(last=False)
        tokens = [list(answer) for some, _ in known for answer in some]
        return Answers(tokens, torch.tensor([value for _, some in known for value in some]))


def answer_reuse(loaded: LoadedModel, out: Path) -> AnswerReuse:
    """What a model has said so far in evaluations into a folder."""
    return _said.setdefault(loaded, {}).setdefault(out.absolute(), AnswerReuse())


_said: WeakKeyDictionary[LoadedModel, dict[Path, AnswerReuse]] = WeakKeyDictionary()


def _key(compressed: Compressed, row: int, conversation: Conversation, rules: object) -> bytes:
    """Hash of everything that the language model is given."""
    origin = compressed.decision.compression.origin[row]
    real, mixing = compressed.decision.compression.real[row], compressed.decision.compression.mixing
    deep = compressed.carried.get(Deepstack())  # of all patches; what is given of it the compression says
    digest = blake2b(digest_size=16)
    rows = [compressed.tokens[row][real], origin[real], *(some[row] for some in (mixing, deep) if some is not None)]
    for values in rows:
        digest.update(values.contiguous().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    facts = (compressed.arrangements[row], compressed.separators, conversation.prefix, conversation.suffixes, rules)
    digest.update(repr(facts).encode())
    return digest.digest()
