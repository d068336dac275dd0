"""The study of the frontier, on a tiny model."""

import pandas as pd
import pytest
from optuna.trial import TrialState
from PIL import Image

from foveate.analysis.comparison.data import comparison_of
from foveate.analysis.comparison.report import absent
from foveate.analysis.frontier.report import ROUNDS, report
from foveate.analysis.frontier.timing import time_cells
from foveate.compressors import AtResolution, Identity
from foveate.core.errors import BudgetError
from foveate.evaluation import EvalConfig, evaluate
from foveate.evaluation.run import cached_load
from foveate.profiling.clock import Clock
from foveate.profiling.speed import Batch, answer_batch
from foveate.studies.frontier import frontier
from foveate.studies.study_folder import StudyFolder
from foveate.testing.checkpoints import save_family


@pytest.fixture(scope="module")
def finished(tiny, tmp_path_factory):
    out = tmp_path_factory.mktemp("frontier")
    config = EvalConfig(Identity(), model=tiny, limit=11, max_new_tokens=2, out=out)
    study, compressors = frontier(StudyFolder("f", out), config, ("vtc_cls",), (36, 9), (0.5, 16), seeds=range(2))
    time_cells(config, compressors, (2, 2, 1), out / "f" / ROUNDS)
    return config, study, compressors, report(study, config)


def test_every_mix_has_its_budget_of_tokens_from_an_image_of_its_size(finished):
    config, study, compressors, _ = finished
    expected = {(name, keep) for name in ("vtc_cls", "vtc_cls@72", "random", "downsample") for keep in (36, 9)}
    assert set(compressors) == expected | {("full", 144), ("blind", 0), ("vtc_cls@16", 9)}
    assert study.user_attrs["resolutions"]["vtc_cls@72"] == 72
    for trial in study.get_trials(states=(TrialState.COMPLETE,)):
        if trial.params["scorer"] not in ("full", "blind"):
            assert trial.user_attrs["tokens"] == pytest.approx(trial.params["keep"], abs=1)
    mix = compressors["vtc_cls@16", 9]
    assert isinstance(mix, AtResolution) and mix.resolution == 16
    assert {len(kept) for kept in evaluate(EvalConfig(mix, config.model, limit=2, out=config.out)).read()["kept"]} == {
        9
    }


def test_downsample_is_timed_without_a_pass_of_the_tower_over_the_whole_image(finished):
    config, _, compressors, _ = finished
    small, compressor = compressors["downsample", 9].resized(cached_load(config.model, config.device, config.dtype))
    tower, seen = small.model.model.vision_tower, []
    with tower.embeddings.register_forward_hook(lambda _, args, states: seen.append(states.shape[1])):
        answer_batch(Batch.of(small, [Image.new("RGB", (96, 96))], ["?"]), compressor, 2, Clock(small.device))
    assert seen == [10]  # nine patches and [CLS]


def test_a_size_without_tokens_to_drop_is_left_out_with_the_reason(finished):
    _, study, _, printed = finished
    pruned = [trial for trial in study.trials if trial.state == TrialState.PRUNED]
    assert [trial.params for trial in pruned] == [{"scorer": "vtc_cls@16", "keep": 36}]
    assert "an image of 16 tokens has none to drop for 36" in study.user_attrs["left_out"]["vtc_cls@16"]["36"]
    assert "Best at equal tokens" in printed and "Best at equal milliseconds" in printed


def test_the_report_writes_what_its_help_promises(finished):
    config, _, compressors, _ = finished
    folder = config.out / "f"
    table = pd.read_csv(folder / "table.csv").set_index(["method", "budget"])
    assert set(table.index) == {*compressors} and (table["ms"] > 0).all()
    assert (folder / "frontier.png").exists() and "vtc_cls@72" in (folder / "table.md").read_text()


def test_a_tower_without_cls_has_its_fallbacks_named_and_a_cut_has_its_place(tmp_path):
    config = EvalConfig(Identity(), str(tmp_path / "model"), limit=2, max_new_tokens=2, out=tmp_path)
    save_family("LLaVA-OneVision", tmp_path / "model")
    study, _ = frontier(StudyFolder("f", tmp_path), config, ("vtc_cls", "fastv"), (0.25,), (0.5,), seeds=(0,))
    roles, fallbacks = study.user_attrs["roles"], study.user_attrs["fallbacks"]
    assert fallbacks == ["vtc_cls"] and (roles["vtc_cls"], roles["fastv"]) == ("vision", "decoder")
    assert "Received attention replaces [CLS] attention, which this tower lacks, in: vtc_cls." in "".join(
        absent(comparison_of(study))
    )


def test_a_budget_of_all_patches_has_no_smaller_image(tiny, tmp_path):
    config = EvalConfig(Identity(), model=tiny, limit=2, max_new_tokens=2, out=tmp_path)
    with pytest.raises(BudgetError, match="keep=200"):
        frontier(StudyFolder("f", tmp_path), config, ("vtc_cls",), (200,), (0.5,), seeds=(0,))
