"""Runs lmms-eval on scenes in a process of its own, because it changes file locks and warnings of the process."""

import json
import sys
from pathlib import Path

from lmms_eval.evaluator import simple_evaluate
from lmms_eval.tasks import TaskManager


def main(folder: Path, runs: list[dict]) -> None:
    """Prints the answers by document, the token counts and the results of each run."""
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    for run in runs:
        results = simple_evaluate(model="foveate", log_samples=True, task_manager=manager, **run)
        (task,) = results["samples"]
        answers = {row["doc"]["id"]: row["filtered_resps"] for row in results["samples"][task]}
        counts = {row["doc"]["id"]: row["token_counts"] for row in results["samples"][task]}
        print("RESULT", json.dumps({"answers": answers, "counts": counts, "results": results["results"][task]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), json.loads(sys.argv[2]))
