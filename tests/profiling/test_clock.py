import subprocess
import sys
from itertools import count

import pytest
import torch
from torch import nn

from foveate.profiling import clock as module
from foveate.profiling.clock import Clock, peak_bytes
from tests.tiers import extended

MIB = 2**20


@pytest.fixture
def clock(monkeypatch) -> Clock:
    """Returns a clock that advances by a second whenever it is read."""
    seconds = count(5.0)
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(seconds))
    return Clock("cpu")


def test_time_belongs_to_the_innermost_part_and_parts_add_up(clock):
    with clock.part("outer"):
        with clock.part("inner"):
            pass
        with clock.part("inner"):
            pass
    # read six times, so five seconds passed between the first and the last
    assert clock.ms == {"outer": 3000.0, "inner": 2000.0}


def test_time_between_parts_is_not_counted(clock):
    for _ in range(2):
        with clock.part("one"):
            pass
    assert clock.ms == {"one": 2000.0}


def test_a_part_that_fails_ends(clock):
    with pytest.raises(ValueError), clock.part("failing"):
        raise ValueError
    with clock.part("next"):
        pass
    assert clock.ms == {"failing": 1000.0, "next": 1000.0}


def test_calls_that_are_listened_to_are_parts_and_return_what_they_return(clock):
    layer = nn.Linear(2, 3)
    with torch.no_grad(), clock.listening((layer, "forward", "layer")), clock.part("rest"):
        seen = layer(torch.ones(1, 2))
    assert torch.equal(seen, layer(torch.ones(1, 2)))
    assert clock.ms == {"rest": 2000.0, "layer": 1000.0}


def test_afterwards_objects_are_as_they_were_also_those_with_a_method_of_their_own(clock):
    plain, hooked = nn.Linear(2, 3), nn.Linear(2, 3)
    hooked.forward = own = lambda states: states
    with pytest.raises(ValueError), clock.listening((plain, "forward", "a"), (hooked, "forward", "b")):
        assert "forward" in vars(plain)
        raise ValueError
    assert "forward" not in vars(plain)
    assert hooked.forward is own


def test_an_accelerator_is_waited_for_at_both_ends_of_every_part(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.accelerator, "synchronize", waited.append)
    with Clock("cuda").part("one"):
        assert waited == [torch.device("cuda")]
    assert len(waited) == 2
    with Clock("cpu").part("one"):
        pass
    assert len(waited) == 2


MEASURED = """
from statistics import median
import torch
from foveate.profiling.clock import peak_bytes
MIB = 2**20
before = torch.ones(96 * MIB // 4)
del before  # an earlier peak

def twice():
    for _ in range(2):
        torch.ones(48 * MIB // 4)

def many():
    [torch.ones(16 * 1024 // 4) for _ in range(1024)]  # 16 MiB

many()
# memory that the system reclaims, or gives to another thread, is noise
print(*(median(peak_bytes(call, "cpu") for _ in range(5)) for call in (twice, lambda: None, many)))
"""


@extended("memory")
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the peak of a process cannot be set back")
def test_the_peak_is_what_a_call_holds_at_once_and_nothing_from_before():
    """Runs in a process of its own, because memory that other tests left to the allocator would count. Small pieces
    that the allocator kept count when they are used again."""
    measured = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    twice, nothing, many = map(float, measured.stdout.split())
    assert twice == pytest.approx(48 * MIB, rel=0.06)
    assert nothing < 2 * MIB
    assert many == pytest.approx(16 * MIB, rel=0.15)


def test_where_the_peak_cannot_be_known_nothing_is_claimed(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "_PROCESS", tmp_path / "missing")
    called = []
    assert peak_bytes(lambda: called.append(1), "cpu") is None
    assert not called
