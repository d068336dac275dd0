import os
import platform
import subprocess
import sys

import pytest

from tests.tiers import extended

# The model is narrow to be fast, with the layers, heads and patches that tables have rows for. Memory is measured after
# the allocator has returned unused pages, because peaks within a batch vary by more than the size of the tables.
PROGRAM = """
import ctypes, os
from pathlib import Path
from transformers import LlavaForConditionalGeneration
from foveate.compressors import Identity
from foveate.evaluation import EvalConfig
from foveate.bias.measure import measure
from foveate.bias.plan import BiasPlan
from foveate.bias.tables import TableFolder
from foveate.reference.architecture import clip_config, llava_config, make_processor

narrow = llava_config(clip_config().vision_config)
for half in (narrow.vision_config, narrow.text_config):
    half.hidden_size, half.intermediate_size, half.head_dim = 16, 16, 4
LlavaForConditionalGeneration(narrow).save_pretrained("narrow")
make_processor().save_pretrained("narrow")

append, live, written, held = TableFolder.append, [], [], []

def append_and_measure(folder, batch):
    append(folder, batch)
    if folder.folder.parents[1].name == "held":
        held.append(batch)
    written.append(sum(table.nbytes for table in batch.values()))
    del batch
    ctypes.CDLL(None).malloc_trim(0)
    live.append(int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"))

TableFolder.append = append_and_measure
for name, questions in (("on disk", 48), ("held", 36)):
    config = EvalConfig(Identity(), "narrow", limit=questions, max_new_tokens=2, batch_size=12, out=Path(name))
    measure(config, BiasPlan(side=12, shares=(0.5,)))
    print("grown", live[-1] - live[0], sum(written[1:]))
    live.clear(), written.clear()
"""


@extended("memory")
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc_trim exists in glibc only")
def test_memory_does_not_grow_with_the_number_of_questions(tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines() if line.startswith("grown")]
    (grown, written), (grown_with_tables, held) = ((int(line[1]), int(line[2])) for line in lines)
    assert grown_with_tables > 0.9 * held  # the method detects tables that are kept in memory
    assert grown < 0.25 * written
