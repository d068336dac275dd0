"""Published rows of any paper: which can be run, what they are compared with, and which are copies."""

import re
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest

from foveate.analysis.benchmarks.protocol import protocol_of
from foveate.analysis.benchmarks.rows import all_tokens, chosen, study_name, wanted, without_folders
from foveate.analysis.benchmarks.rows_report import BOTH, measure_of
from foveate.analysis.benchmarks.video_rows import DATA, other_frames
from foveate.compressors import Identity
from foveate.core.errors import DataError, UnsupportedModel
from foveate.data.benchmarks import BENCHMARKS
from foveate.data.load import load_samples
from foveate.data.published import VIDEOS, Published, all_published, everything, paper_named
from foveate.evaluation import EvalConfig
from foveate.methods.registry import METHODS
from foveate.metrics.benchmarks import compute_measure, measures_of
from foveate.testing.checkpoints import save_family
from tests import scripts
from tests.data import tables, video_tables
from tests.tiers import parametrize

CHECKPOINT = "llava-hf/llava-1.5-7b-hf"


def run(*options, folder):
    cache = f"import datasets; datasets.config.HF_DATASETS_CACHE = {str(folder / 'cache')!r}"
    return scripts.run("reproduce_vtc_cls", *options, folder=folder, before=cache)


def rows_of(paper, model_type="llava", checkpoint=CHECKPOINT):
    return wanted(paper_named(paper), model_type, checkpoint)


def test_every_row_that_can_be_run_names_a_method_a_data_set_and_a_number_of_ours():
    models = [("llava", CHECKPOINT), ("llava_onevision", "7b"), ("qwen2_vl", "7b"), ("qwen2_5_vl", "7b")]
    seen = set()
    for paper in dict.fromkeys(row.paper for row in all_published()):
        for model_type, checkpoint in models:
            try:
                found = wanted(paper, model_type, checkpoint)
            except UnsupportedModel:
                continue
            seen.add(model_type)
            for row in found.rows:
                assert row.data in BENCHMARKS and row.method in METHODS
                assert measure_of(row).name == row.number or not row.number
                assert (row.tokens is None) == (row.method == "full")
    assert seen == {model_type for model_type, _ in models}


def test_a_paper_of_which_averages_alone_are_known_stands_for_its_method():
    found = rows_of("visionzip")
    assert found.by_others and {row.method for row in found.rows} == {"full", "visionzip"}
    assert {"EADP", "HiPrune", "MMTok"} <= {row.published.paper for row in found.rows}
    assert not rows_of("eadp").by_others


def test_the_rows_of_a_method_that_other_papers_print_too_are_flagged():
    copied = {(row.published.method, row.tokens): row.copied for row in rows_of("hiprune").rows}
    assert copied["FastV", 64] == "MSDG-Prune (8 of 8), MMTok (7 of 7)"
    assert copied["HiPrune", 64] == ""  # its own method
    assert not any(row.copied for row in rows_of("eadp").rows)


def test_numbers_mean_what_their_metric_and_benchmark_say():
    found = {(row.published.paper, row.published.benchmark): row for row in rows_of("eadp").rows}
    assert found["EADP", "ScienceQA-IMG"].number == "accuracy with an image"
    assert found["EADP", "TextVQA"].data == "textvqa_ocr" and not found["EADP", "TextVQA"].incomparable
    assert "GPT-4" in found["EADP", "MM-Vet"].incomparable
    assert "test-dev" in found["EADP", "VQAv2"].incomparable
    assert {row.data for row in rows_of("eadp", "qwen2_5_vl").rows} >= {"textvqa", "mmbench"}
    totals = [row for row in rows_of("hiprune").rows if row.published.metric == "total score"]
    assert totals and {row.number for row in totals} == {BOTH}


def test_the_number_of_both_parts_of_mme_is_their_sum(tmp_path):
    rows = [row for row in rows_of("hiprune").rows if row.number == BOTH]
    samples = load_samples(f"mme:{tables.mme(tmp_path / 'mme.parquet')}", "test")
    frame = {
        "kind": np.array([sample.kind for sample in samples]),
        "image_id": np.array([sample.image_id for sample in samples]),
        "score": np.arange(len(samples)) % 3 / 2 // 1,
    }
    parts = {measure.name: compute_measure(measure, frame) for measure in measures_of("mme")}
    assert compute_measure(measure_of(rows[0]), frame) == pytest.approx(parts["perception"] + parts["cognition"])
    assert measure_of(rows[0]).unit == 2800


def test_the_size_in_a_checkpoints_name_decides_between_models_of_a_family():
    assert rows_of("autoprune", checkpoint="llava-hf/llava-1.5-13b-hf").model == "LLaVA-1.5-13B"
    assert rows_of("autoprune").model == "LLaVA-1.5-7B"
    assert all_tokens("LLaVA-1.5-7B") == 576 and all_tokens("LLaVA-NeXT-7B") == 2880


def test_the_numbers_of_qwen_stand_for_every_benchmark_of_their_table():
    rows = [row for row in all_published() if row.paper == "UniPruneBench" and row.model == "Qwen2.5-VL-7B"]
    averages = {(row.method, row.tokens_kept): row.value for row in rows if row.metric == "mean score"}
    for (method, kept), average in averages.items():
        values = [
            float(row.value)
            for row in rows
            if (row.method, row.tokens_kept) == (method, kept) and row.metric != "mean score"
        ]
        assert len(values) == 10
        assert np.mean(values) == pytest.approx(float(average), abs=0.08)


def test_a_choice_that_no_row_has_is_refused():
    found = rows_of("eadp")
    assert {row.method for row in chosen(found, ["pope"], ["fastv"], [64]).rows} == {"full", "fastv"}
    for data, methods, keep, words in (
        (
            ["seedbench"],
            [],
            [],
            "data seedbench is not in the numbers of paper 'EADP' for LLaVA-1.5-7B; there are: gqa",
        ),
        ([], ["vtw"], [], "method vtw is not in"),
        ([], [], [7], "keep 7 is not in"),
    ):
        with pytest.raises(DataError, match=re.escape(words)):
            chosen(found, data, methods, keep)


def test_papers_are_found_without_upper_case_and_signs_and_unknown_ones_are_refused():
    assert paper_named("vtc_cls") == paper_named("VTC CLS") == "VTC-CLS"
    with pytest.raises(DataError, match="no published results of paper 'nothing'; known: ALVTS"):
        paper_named("nothing")
    with pytest.raises(UnsupportedModel, match=r"paper 'EADP' has numbers of LLaVA-1.5-7B, Qwen2.5-VL-7B: none"):
        rows_of("eadp", "internvl", "x")
    with pytest.raises(UnsupportedModel, match="paper 'PriorTR' has averages, shares and costs only"):
        rows_of("priortr")
    assert study_name("HiDrop (ICLR26, trained)") == "reproduce_hidrop_iclr26_trained"


@pytest.mark.parametrize(
    ("paper", "model", "checkpoint", "frames", "named", "rows", "refused"),
    [
        ("vidcom2", "llava_onevision", "7b", 32, "LLaVA-OneVision-7B", 56, {"DyCoke": 14, "SparseVLM": 14}),
        ("vidcom2", "qwen3_vl", "8b", 64, "Qwen3-VL-8B 64 frames", 21, {"ports": 42, "models": 72}),
        ("vidcom2", "qwen3_vl", "8b", 8, "Qwen3-VL-8B 64 frames", 21, {"ports": 42}),
        ("vidcom2", "qwen3_vl", "8b", 32, "Qwen3-VL-8B 32 frames", 21, {"ports": 42}),
        ("vidcom2", "qwen3_vl", "32b", 32, "Qwen3-VL-32B", 14, {"ports": 21}),
        ("holitom", "llava_onevision", "7b", 32, "LLaVA-OneVision-7B", 64, {"PruneVid": 16, "budgets": 8, "DyCoke": 4}),
        ("fastvid", "qwen2_5_vl", "7b", 32, "Qwen2.5-VL-7B", 4, {"models that are not here (LLaVA-Video-7B)": 4}),
        ("prunevid", "llava_onevision", "7b", 32, "LLaVA-OneVision-7B", 12, {"benchmarks": 30, "models": 90}),
        ("dycoke", "llava_onevision", "0.5b", 32, "LLaVA-OneVision-0.5B", 6, {"benchmarks": 30, "DyCoke": 6}),
    ],
)
def test_numbers_about_videos_are_run_or_refused_by_name(paper, model, checkpoint, frames, named, rows, refused):
    found = wanted(paper_named(paper), model, checkpoint, frames)
    assert (found.model, len(found.rows), found.by_others) == (named, rows, False)
    for beginning, count in refused.items():
        assert [len(of) for why, of in found.refused.items() if why.startswith(beginning)] == [count]
    for row in found.rows:
        assert row.data in DATA and row.method in METHODS and measure_of(row).name
        recipe = METHODS[row.method]
        recipe(**({} if row.tokens is None else {"keep": row.tokens}), **dict(row.settings))


def test_numbers_about_videos_mean_what_their_benchmark_and_scripts_say():
    found = wanted("FastVID", "qwen2_5_vl", "7b").rows
    assert [row.number for row in found] == ["", "short", "medium", "long"]
    assert {row.cell for row in found} == {("fastvid", 0.27, (("variant", "qwen2_5_vl"),))}
    assert all("takes them by their rate" in row.incomparable for row in found)
    found = {(row.published.method, row.tokens): row for row in wanted("HoliTom", "llava_onevision", "7b").rows}
    assert found["HoliTom", 0.25].settings == () and found["HoliTom", 0.1].settings == (("threshold", 0.65),)
    assert found["HoliTom (w/o M)", 0.2].settings == (("inside", 1.0),)
    found = {row.published.benchmark: row for row in wanted("PruneVid", "llava_onevision", "7b").rows}
    assert "on a server" in found["EgoSchema full"].incomparable and not found["EgoSchema full"].copied
    rows = wanted("VidCom2", "llava_onevision", "7b").rows
    assert {row.published.benchmark for row in rows if row.incomparable} == {"MLVU"}
    assert {row.frames for row in rows} == {32}
    assert other_frames(32, 32, False) == other_frames(0, 8, True) == ""
    assert other_frames(32, 8, False) == "its videos have 32 frames, here 8 (--frames)"
    assert other_frames(32, 32, True) == "frames are given as images here"


def test_every_published_number_about_a_video_is_read():
    assert len(all_published(VIDEOS)) == 755 and set(all_published(VIDEOS)) < set(everything())
    models = {("llava_onevision", "0.5b"), ("llava_onevision", "7b"), ("llava_onevision", "72b"), ("qwen2_5_vl", "7b")}
    models |= {("qwen3_vl", "8b"), ("qwen3_vl", "32b")}
    known = set[Published]()
    for paper in {row.paper for row in all_published(VIDEOS)}:
        for model_type, checkpoint in models:
            for frames in (32, 64):
                with suppress(UnsupportedModel):
                    found = wanted(paper, model_type, checkpoint, frames)
                    known |= {row.published for row in found.rows} & set(all_published(VIDEOS))
    assert len(known) == 214  # as docs/how_to/benchmarks.md says


def test_benchmarks_about_videos_need_their_folders():
    found = without_folders(wanted("VisionZip", "llava_onevision", "7b"))
    assert found.rows and not {row.data for row in found.rows} & set(DATA)
    assert [len(of) for why, of in found.refused.items() if "--tasks videomme:FOLDER mvbench:FOLDER" in why] == [20]
    assert without_folders(rows_of("eadp")) == rows_of("eadp")
    with pytest.raises(DataError, match=r"'VidCom2' has numbers about videos for .*: --tasks videomme:FOLDER mvbench:"):
        without_folders(wanted("VidCom2", "llava_onevision", "7b"))


def test_rows_about_videos_stand_beside_what_a_paper_printed(tmp_path):
    """Runs numbers of each method whose folder is given, of 12 each; every video has two frames instead of 32."""
    video_tables.videomme(tmp_path / "Video-MME")
    save_family("LLaVA-OneVision", tmp_path / "7b")
    options = ("--paper", "holitom", "--model", "7b", "--tasks", "videomme:Video-MME", "--keep", "0.25")
    options += ("--methods", "holitom", "fastvid", "--frames", "2", "--max-new-tokens", "3")
    result = run(*options, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(tmp_path / "runs" / "reproduce_holitom" / "table.csv", keep_default_na=False)
    printed = dict(zip(table["method"], table["published"].astype(float), strict=True))
    assert printed == {"full": 58.6, "FastVID": 58.0, "HoliTom (w/o M)": 59.1, "HoliTom": 58.9}
    assert set(table["reason"]) == {"its videos have 32 frames, here 2 (--frames)"}
    text = (tmp_path / "runs" / "reproduce_holitom" / "table.md").read_text()
    assert "2 frames of each video" in text and "PruneVid, whose number of tokens follows" in text


def test_a_protocol_has_another_fingerprint_wherever_one_of_its_parts_differs(tmp_path):
    plain = f"textvqa:{tables.textvqa(tmp_path / 'textvqa.parquet')}"
    config = EvalConfig(Identity(), data=plain)
    (measure,) = measures_of("textvqa")

    def of(data=plain, model_type="llava", **changes):
        changed = EvalConfig(Identity(), data=data, **changes)
        return protocol_of(changed, load_samples(data, "validation"), model_type, measure)

    first = of()
    assert (first.data, first.split, first.aggregation, first.ocr_hints) == ("textvqa", "validation", "mean", False)
    assert first.prompt == "Answer the question using a single word or phrase."
    assert first.fingerprint == protocol_of(config, load_samples(plain, "validation"), "llava", measure).fingerprint
    others = [of(plain.replace("textvqa:", "textvqa_ocr:")), of(model_type="qwen2_5_vl"), of(model_type="llava_next")]
    others.append(of(max_new_tokens=7))
    assert others[0].ocr_hints and "padding is removed" in others[2].unpad
    assert len({one.fingerprint for one in (first, *others)}) == 5


@parametrize("family", ["Qwen2.5-VL", "LLaVA-1.5"])
def test_rows_of_a_paper_are_run_and_stand_beside_what_it_printed(family, tmp_path):
    tables.pope(tmp_path / "pope.parquet", images=2)
    tables.mme(tmp_path / "mme.parquet")
    save_family(family, tmp_path / "7b")
    paper = "eadp" if family == "LLaVA-1.5" else "unipruneBench"
    keep = "64" if family == "LLaVA-1.5" else "0.111"
    options = ("--paper", paper, "--model", "7b", "--tasks", "pope:pope.parquet", "mme:mme.parquet", "--keep", keep)
    options += ("--methods", "fastv", "divprune", "--max-new-tokens", "3")
    result = run(*options, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    folder = tmp_path / "runs" / f"reproduce_{paper.lower()}"
    table = pd.read_csv(folder / "table.csv", keep_default_na=False)
    assert set(table["method"]) == {"full", "FastV", "DivPrune"} and set(table["benchmark"]) == {"POPE", "MME"}
    known = {
        (p.method, p.tokens_kept, p.benchmark): p.value for p in all_published() if p.paper.lower() == paper.lower()
    }
    for row in table.itertuples():
        assert float(row.published) == float(known[row.method, str(row.kept), row.benchmark])
    assert set(table["verdict"]) == {"not comparable"}
    assert ("this model has 36 tokens per image where theirs has 576" in result.stdout) == (family == "LLaVA-1.5")
    protocols = pd.read_csv(folder / "protocols.csv", dtype=str)
    assert set(table["protocol"].astype(str)) == set(protocols["fingerprint"])
    assert "## Published numbers that were not run" in (folder / "table.md").read_text()
    assert run(*options, folder=tmp_path).stdout == result.stdout


def test_methods_belong_to_a_paper(tmp_path):
    result = run("--methods", "fastv", folder=tmp_path)
    assert result.returncode == 2 and "they need --paper" in result.stderr
    result = run("--keep", "0.5", folder=tmp_path)
    assert result.returncode == 2 and "expected a count such as 64" in result.stderr
