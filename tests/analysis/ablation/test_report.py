import numpy as np
from PIL import Image

from foveate.analysis.ablation.report import example_cells, write_report
from foveate.analysis.kept_patches import Setting
from foveate.evaluation.records import RecordFolder

FILES = ["accuracy_by_layer.png", "frontier.png", "kept_patches.png", "table.csv", "table.md", "worst_kinds.csv"]


def report(study, cells, folder, images):
    setting = Setting(4, 6, (12, 12), images, {"0000-color": np.eye(12, dtype=bool)})
    return write_report(cells, study.out, folder, setting).text


def test_report_is_complete_and_the_same_when_written_again(tmp_path, study):
    images = {f"{number:04d}": Image.new("RGB", (96, 96), (number, 90, 90)) for number in range(6)}
    answers = [report(study, study.cells, tmp_path / name, images) for name in ("one", "two")]
    assert answers[0] == answers[1]
    assert "(220 questions) and reported on the other half: n = 220 questions about 20 images" in answers[0]
    assert sorted(file.name for file in (tmp_path / "one").iterdir()) == FILES
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    assert Image.open(tmp_path / "one" / "frontier.png").size[0] == 1620


def test_report_leaves_out_what_the_study_does_not_have(tmp_path, study):
    cells = [cell for cell in study.cells if cell.family in ("uniform", "random")]
    report(study, cells, tmp_path, {})
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        *("frontier.png", "table.csv", "table.md", "worst_kinds.csv")
    ]


def test_report_names_the_questions_that_failed(tmp_path, study, monkeypatch):
    monkeypatch.setattr(RecordFolder, "failed", lambda self: {"zz": "it has no question"})
    assert report(study, study.cells, tmp_path, {}).endswith("The first, 'zz': it has no question")


def test_figures_show_full_the_best_and_the_controls(study):
    shown = [cell.scorer for cell in example_cells(study.table, study.cells, feature_layer=4)]
    assert shown[:2] == ["full", "cls[2]"]
    assert shown[3:] == ["cls[4]", "random[0]", "evidence"]
