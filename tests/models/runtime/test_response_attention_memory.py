import os
import subprocess
import sys

import pytest

from tests.tiers import extended

# Each case runs in a fork of its own, so that its peak is that of one pass above weights and libraries.
PROGRAM = """
import os
from resource import RUSAGE_SELF, getrusage
import torch
from transformers import LlamaConfig, LlamaModel
from foveate.models.backbone.decoder import Decoder
from foveate.models.runtime.response_attention import RowRecorder

TOKENS = 2900
config = LlamaConfig(
    hidden_size=256, intermediate_size=688, num_hidden_layers=2, num_attention_heads=8, num_key_value_heads=4,
    vocab_size=64, max_position_embeddings=TOKENS,
)
model = LlamaModel(config).eval()
ids, real = torch.randint(64, (1, TOKENS)), torch.ones(1, TOKENS, dtype=torch.bool)
patches = torch.arange(5, 2800)[None]

def plain():
    model(ids, use_cache=False)

def recorded():
    answer = (torch.arange(TOKENS) >= TOKENS - 32).float()[None]
    recorder = RowRecorder(real, {"response": answer}, patches)
    with Decoder(model, torch.nn.Identity()).tapped(recorder):
        model(ids, use_cache=False)
    assert recorder.rows("response").shape == (1, 2, 8, patches.shape[1])

def square():
    torch.ones(TOKENS, TOKENS)

with torch.inference_mode():
    for case in (plain, recorded, square):
        if os.fork() == 0:
            model(ids[:, :64], use_cache=False)  # libraries that the fork has to read anew
            before = getrusage(RUSAGE_SELF).ru_maxrss
            case()
            print(getrusage(RUSAGE_SELF).ru_maxrss - before, flush=True)
            os._exit(0)
        assert os.wait()[1] == 0
"""


@extended("memory")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a fork does not start with a peak of its own")
def test_recording_32_rows_of_2900_tokens_takes_at_most_a_tenth_more_memory_than_a_plain_pass():
    # the allocator gives large tensors back at once, so that the peak is that of live tensors
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}
    result = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    plain, recorded, square = map(int, result.stdout.split())
    assert square * 1024 == pytest.approx(2900 * 2900 * 4, rel=0.03)  # what is measured is memory
    assert square > 0.3 * plain  # so that the matrix of a single head would show
    assert recorded < 1.1 * plain
