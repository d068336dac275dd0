"""A short version of `make faults`: the real command lines, disturbed."""

from tests.faults.commands import COMMANDS
from tests.faults.injection import Scene, run_again
from tests.faults.matrix import FIRST, SHORT, Outcome, run, table
from tests.tiers import parametrize

PLANS = {"a kill and a flipped bit": FIRST, "twenty": SHORT}


@parametrize("plan", PLANS, reason="moments")
def test_no_fault_loses_a_result_or_lets_a_damaged_file_in(plan, tmp_path):
    assert sum(sum(counts.values()) for counts in SHORT.values()) >= 20
    outcomes = run(PLANS[plan], tmp_path, seed=0)
    lost = [outcome for outcome in outcomes if outcome.lost]
    assert not lost, f"{table(outcomes)}\n{lost}"


def test_what_is_lost_is_counted_and_another_table_or_an_unnamed_file_is_a_loss(tmp_path, monkeypatch):
    """Of a command that ends in good order and says nothing."""
    monkeypatch.setattr("tests.faults.injection.finished", lambda *_: "")
    command = COMMANDS["ablate_layers"]
    found = tmp_path / "runs" / command.tables[0]
    found.parent.mkdir(parents=True)
    found.write_bytes(b"other")
    scene = Scene(command, tmp_path, tmp_path, {command.tables[0]: b"expected"}, 1.0)
    assert run_again(scene, tmp_path, ()) == "another ablate_layers/table.csv"
    found.write_bytes(b"expected")
    assert run_again(scene, tmp_path, ()) == ""
    assert run_again(scene, tmp_path, [found]) == "table.csv was not named"
    monkeypatch.setattr("tests.faults.injection.finished", lambda *_: f"damaged: runs/{command.tables[0]}")
    assert run_again(scene, tmp_path, [found]) == "table.csv was not set aside as it was"
    outcomes = [Outcome("SIGKILL", "ablate_layers", 0, ""), Outcome("SIGKILL", "ablate_layers", 1, "hangs")]
    assert "| SIGKILL | ablate_layers | 2 | 1 | 1 |" in table(outcomes)
