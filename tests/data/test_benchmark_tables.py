from foveate.data.benchmarks import BENCHMARKS
from foveate.data.names import NAMES
from foveate.data.sample import Scoring
from tests.data.benchmark_tables import PAGE, SCORES, page


def test_the_page_lists_every_benchmark_with_metric_prompt_source_and_split(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.data.benchmark_tables`"


def test_every_benchmark_has_a_source_and_a_name_that_needs_no_import():
    assert sorted(BENCHMARKS) == sorted(NAMES) == list(BENCHMARKS)
    assert all(benchmark.source for benchmark in BENCHMARKS.values())
    assert set(SCORES) <= set(Scoring.__args__)
