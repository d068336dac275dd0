"""Exported files: the figure, the kept patches of each method, and the command that shows the page again."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from foveate.analysis.drawing import save_figure
from foveate.compressors.kept_file import write
from foveate.explore.choice import Choice
from foveate.explore.drawing import Column, comparison_figure
from foveate.explore.frames import sheet_figure
from foveate.explore.inspection import Inspection
from foveate.explore.session import Seen
from foveate.methods.registry import label_of


@dataclass(frozen=True, eq=False)
class Answered:
    """A method and what it keeps and answers, as one column shows them.

    Attributes:
        choice: The method.
        inspection: What it keeps and answers.
    """

    choice: Choice
    inspection: Inspection


def command_of(seen: Seen, shown: Sequence[Answered]) -> str:
    """Returns the command that shows the same page; an uploaded file has its file name only."""
    return replace(seen.plan, methods=tuple(one.choice for one in shown)).command


def export(seen: Seen, shown: Sequence[Answered], folder: Path) -> list[Path]:
    """Writes the exported files.

    Args:
        seen: Image or video, and question.
        shown: At least one method.
        folder: An empty folder.

    Returns:
        Paths of the files.
    """
    columns = [Column(str(one.choice), one.inspection, one.inspection.words != seen.full.words) for one in shown]
    if seen.clip:
        figure = sheet_figure(seen, columns)
    else:
        figure = comparison_figure(seen.prompt, seen.panes, seen.full, columns)
    for suffix in ("png", "pdf"):
        save_figure(figure, folder / f"kept.{suffix}")
    for number, one in enumerate(shown, 1):
        name = label_of(one.choice.name)
        write(folder / f"kept_{number}_{name}.json", one.inspection.content)
    (folder / "command.txt").write_text(command_of(seen, shown) + "\n")
    return sorted(folder.iterdir())
