"""The pooling head of SigLIP: attention of a learned query to all patches."""

from jaxtyping import Float
from torch import Tensor, nn


def pooled_by_head(
    features: Float[Tensor, "image patch dim"],
    probe: Float[Tensor, "1 1 dim"],
    attention: nn.MultiheadAttention,
    norm: nn.LayerNorm,
    mlp: nn.Module,
) -> tuple[Float[Tensor, "image dim"], Float[Tensor, "image head patch"]]:
    """Returns the output of a pooling head for each image, and the softmax rows of its query.

    Args:
        features: Output of the tower after its last norm.
        probe: The learned query.
        attention: The head's attention.
        norm: The head's norm.
        mlp: The head's MLP.
    """
    read, rows = attention(probe.expand(len(features), -1, -1), features, features, average_attn_weights=False)
    return (read + mlp(norm(read)))[:, 0], rows[:, :, 0]
