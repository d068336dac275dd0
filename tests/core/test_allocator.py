"""Memory that a batch has freed serves the next one."""

import platform
import subprocess
import sys

import pytest

from foveate.core.allocator import keep_freed_memory

BATCHES = """
import resource, sys
import torch
from foveate.core.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    assert keep_freed_memory()

def batch():
    return [torch.zeros(2**20).add_(1) for _ in range(40)]  # 4 MiB each; by itself, glibc keeps at most 64 MiB

for _ in range(2):
    batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_settings_of_the_user_stay(monkeypatch):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "1000000")
    assert not keep_freed_memory()


def page_faults(choice):
    return int(subprocess.run([sys.executable, "-c", BATCHES, choice], capture_output=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the options are those of glibc")
def test_further_batches_cause_few_page_faults():
    assert page_faults("keep") < page_faults("leave") / 4
