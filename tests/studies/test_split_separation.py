"""A winner is reported on questions that the search never saw."""

import pytest

from foveate.compressors import Identity
from foveate.core.errors import FoveateError
from foveate.evaluation import EvalConfig
from foveate.studies.plan import SearchPlan
from foveate.studies.search import search
from foveate.studies.study_folder import StudyFolder
from tests.data import tables


@pytest.mark.guards("split separation: a search may report its own split")
def test_a_search_never_reports_its_own_split(tiny, tmp_path):
    config = EvalConfig(Identity(), tiny, split="search", limit=11, out=tmp_path)
    with pytest.raises(FoveateError, match="the split that is searched"):
        search(StudyFolder("s", tmp_path), config, SearchPlan(trials=1, report_split="search"))
    assert not (tmp_path / "s").exists()


@pytest.mark.guards("split separation: splits may share questions")
def test_a_search_reports_no_split_that_shares_questions_with_its_own(tiny, tmp_path):
    """POPE's split `test` holds those of its three categories."""
    parquet = tables.pope(tmp_path / "pope.parquet")
    config = EvalConfig(Identity(), tiny, f"pope:{parquet}", "random", out=tmp_path / "runs")
    with pytest.raises(FoveateError, match=r"report_split='test' shares \d+ questions with split 'random'"):
        search(StudyFolder("s", tmp_path / "runs"), config, SearchPlan(trials=1, report_split="test"))
    assert not (tmp_path / "runs" / "s").exists()
