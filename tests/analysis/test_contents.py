import numpy as np
import pandas as pd

from foveate.analysis.ablation.data import ablation_table
from foveate.analysis.cells import read_cells
from foveate.analysis.contents import by_content, content_tables
from foveate.data.scenes.questions import QUESTION_KINDS


def scene_frames(study):
    """The study's records, a third of which are about details."""
    frames = read_cells(study.cells, study.out)
    kinds = np.array(["color", "list", "read"])
    return {cell: frame.assign(kind=kinds[np.arange(len(frame)) % 3]) for cell, frame in frames.items()}


def test_questions_are_split_by_what_their_kind_asks_about(study):
    frames = scene_frames(study)
    parts = by_content(frames)
    assert list(parts) == ["things", "details"]
    for content, part in parts.items():
        for cell, frame in part.items():
            assert {QUESTION_KINDS[kind].about for kind in frame["kind"]} == {content}
            whole = frames[cell]
            assert len(frame) == sum(QUESTION_KINDS[kind].about == content for kind in whole["kind"])
    assert sum(len(part[cell]) for part in parts.values() for cell in [next(iter(frames))]) == len(
        frames[next(iter(frames))]
    )


def test_other_data_have_no_such_tables(study, tmp_path):
    frames = read_cells(study.cells, study.out)
    assert by_content(frames) == {}
    assert content_tables(frames, ablation_table, tmp_path) == ""
    assert not list(tmp_path.iterdir())


def test_questions_about_things_alone_have_no_second_table(study):
    frames = {cell: frame.assign(kind="color") for cell, frame in read_cells(study.cells, study.out).items()}
    assert by_content(frames) == {}


def test_without_verdicts_there_are_only_p_values(study, tmp_path):
    text = content_tables(scene_frames(study), ablation_table, tmp_path, verdicts=False)
    assert "better" not in text and "worse" not in text
    assert "better" in content_tables(scene_frames(study), ablation_table, tmp_path)


def test_tables_of_contents_are_those_of_their_questions(study, tmp_path):
    frames = scene_frames(study)
    text = content_tables(frames, ablation_table, tmp_path)
    for content in ("things", "details"):
        table = pd.read_csv(tmp_path / f"table_{content}.csv")
        expected = ablation_table(by_content(frames)[content])
        assert table["scorer"].tolist() == expected["scorer"].tolist()
        np.testing.assert_allclose(table["accuracy"], expected["accuracy"], atol=1e-6)
        assert f"## Questions about {content}" in text
        row = expected[(expected["scorer"] == "cls[2]") & (expected["keep"] == 16)].iloc[0]
        assert f"| 16 | cls[2] | {100 * row['accuracy']:.1f} [" in text
    assert "| full |" not in text
