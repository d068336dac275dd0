"""Corrected attention, evaluated on a tiny random model."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from foveate.analysis.bias.data import corrections_table
from foveate.analysis.bias.report import corrections_markdown
from foveate.analysis.records import read_records
from foveate.analysis.verdicts import holm, paired_p
from foveate.compressors import Identity
from foveate.core.errors import OptionError, OutputError
from foveate.data.load import load_samples
from foveate.evaluation import EvalConfig
from foveate.models.loading.load import load
from foveate.studies.corrections import (
    DEBIASED,
    PLAIN,
    WITHOUT_SINKS,
    attentions,
    evaluate_corrections,
    mean_scores,
    split_of_means,
)
from foveate.studies.reports import report_folder


@pytest.fixture(scope="module")
def config(tiny, tmp_path_factory) -> EvalConfig:
    out = tmp_path_factory.mktemp("corrections")
    return EvalConfig(Identity(), tiny, limit=24, max_new_tokens=4, batch_size=7, out=out)


@torch.inference_mode()
def eager(loaded, sample, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns attention to patches, averaged over heads: of [CLS] per layer, and of prompt tokens in a block."""
    tower, model = loaded.model.model.vision_tower, loaded.model
    pixels, ids = loaded.image_inputs([sample.image])[0]["pixel_values"], torch.tensor([loaded.prompt(sample.question)])
    tower.set_attn_implementation("eager")
    of_cls = torch.cat(tower(pixels, output_attentions=True).attentions)[:, :, 0, 1:].mean(1)
    tower.set_attn_implementation("sdpa")
    model.set_attn_implementation({"text_config": "eager"})
    rows = model(input_ids=ids, pixel_values=pixels, output_attentions=True).attentions[block][0].mean(0)
    model.set_attn_implementation({"text_config": "sdpa"})
    patches = (ids[0] == loaded.adapter.image_token).nonzero()[:, 0]
    return of_cls, rows[patches[-1] + 1 :][:, patches]


def test_means_are_those_of_the_eager_attention_matrices_over_all_questions(config):
    loaded = load(config.model)
    compressors = attentions(16, loaded.adapter)
    samples = load_samples("scenes", "search", 24)
    block = compressors["last prompt token"].scorer.layer
    expected: dict[str, list[torch.Tensor]] = {name: [] for name in compressors}
    for sample in samples:
        of_cls, rows = eager(loaded, sample, block)
        expected["[CLS], all layers"].append(of_cls[:-1].sum(0))  # the last writes no features
        expected["last prompt token"].append(rows[-1])
        expected["question tokens"].append(rows.mean(0))
    for name in ("[CLS], all layers", "last prompt token", "question tokens"):
        found = mean_scores(replace(config, compressor=compressors[name], split="search"))
        np.testing.assert_allclose(found, torch.stack(expected[name]).mean(0), atol=1e-5)


def test_every_correction_is_a_run_and_its_table_is_paired_with_the_same_attention(config):
    corrected = evaluate_corrections(config, 16, "search")
    assert [one.correction for one in corrected] == [PLAIN, DEBIASED, WITHOUT_SINKS] * 4
    assert len({one.attention for one in corrected}) == 4
    records = [read_records(config.out, one.run) for one in corrected]
    assert all(len(frame) == 24 for frame in records)
    table = corrections_table(corrected, config.out)
    tests = []
    for index, (row, frame) in enumerate(zip(table.to_dict("records"), records, strict=True)):
        plain = records[index - index % 3]
        assert row["accuracy"] == pytest.approx(frame["score"].mean())
        pairs = zip(frame["kept"], plain["kept"], strict=True)
        assert row["changed"] == pytest.approx(np.mean([sorted(a) != sorted(b) for a, b in pairs]))
        if index % 3:
            assert row["difference"] == pytest.approx((frame["score"] - plain["score"]).mean())
            tests.append(paired_p(frame["score"], plain["score"], frame["image_id"]))
    assert table["p_holm"].dropna().tolist() == pytest.approx(holm(tests).tolist())
    assert table["p_holm"].isna().sum() == 4
    changed = sum(list(map(list, one["kept"])) != list(map(list, records[0]["kept"])) for one in records[1:3])
    assert changed >= 1  # the correction chooses other patches
    text = corrections_markdown(table, "0.11", "search")
    assert "11.0 % of the patches kept, mean maps of split 'search': n = 24 questions about 4 images" in text
    assert text.count("| last prompt token |") == 3
    before = {path: path.stat().st_mtime_ns for path in config.out.glob("records/*/part-*")}
    for encoded in config.out.glob("encodings/*.arrow"):
        encoded.unlink()  # without which nothing can be computed anew
    assert evaluate_corrections(config, 16, "search") == corrected
    assert not list(config.out.glob("encodings/*.arrow"))
    assert {path: path.stat().st_mtime_ns for path in config.out.glob("records/*/part-*")} == before


def test_a_damaged_mean_is_never_read_and_computed_anew(config):
    config = replace(config, compressor=attentions(16, load(config.model).adapter)["[CLS], all layers"], split="search")
    mean = mean_scores(config)
    (stored,) = (path for path in config.out.glob("means/*.json") if json.loads(path.read_text()) == list(mean))
    stored.write_text("[0.0]")
    with pytest.warns(UserWarning, match="damaged"):
        assert mean_scores(config) == mean
    assert [json.loads(path.read_text()) for path in config.out.glob(f"{Path('means') / stored.name}")] == [list(mean)]


def test_means_never_come_from_the_evaluated_split(config):
    assert split_of_means(config, None) == "search"
    assert split_of_means(replace(config, split="search"), None) == "test"
    assert split_of_means(config, "train") == "train"
    with pytest.raises(OptionError, match=r"mean_split='test' is the split that is evaluated.*choose another split"):
        split_of_means(config, "test")
    other = replace(config, data="pope", split="test")
    assert split_of_means(other, None) is None


def test_a_report_of_another_configuration_is_never_overwritten(tmp_path, capsys):
    first, second = {"plan": "a", "code": "x"}, {"plan": "b", "code": "x"}
    assert report_folder(tmp_path, "bias", "beside", first) == tmp_path / "bias"
    assert report_folder(tmp_path, "bias", "refuse", first) == tmp_path / "bias"
    with pytest.raises(OutputError, match=r"(?s)another configuration:\n  plan: 'a' there, 'b' here\nGive another"):
        report_folder(tmp_path, "bias", "refuse", second)
    beside = report_folder(tmp_path, "bias", "beside", second)
    assert beside.name.startswith("bias-") and len(beside.name) == len("bias-") + 8
    assert report_folder(tmp_path, "bias", "beside", second) == beside
    assert "plan: 'a' there, 'b' here" in capsys.readouterr().err
    (tmp_path / "bias" / "measurement.json").write_text("{")
    with pytest.raises(OutputError, match="cannot be used"):
        report_folder(tmp_path, "bias", "beside", first)
