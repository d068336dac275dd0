"""Measures how many requests a server answers, and how fast, with and without compression."""

from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional

from foveate.core.errors import OptionError
from foveate.core.values import whole
from foveate.data.names import SCENES
from foveate.methods.registry import check_names, label_of
from foveate.models.loading.names import AUTO, REFERENCE, Dtype
from foveate.profiling.timing import check_length
from foveate.serving.load import Load, check_load, clients, server


def main(
    recipe: Positional[str],
    concurrency: tuple[int, ...] = (1, 2, 4, 8, 16),
    requests: int = 32,
    seconds: float = 30,
    rounds: int = 5,
    new_tokens: int = 10,
    cached: int = 0,
    model: str = REFERENCE,
    companion: str | None = None,
    device: str = AUTO,
    dtype: Dtype | Literal["auto"] = AUTO,
    out: Path = Path("runs"),
) -> None:
    """Asks two servers on this machine, `foveate serve full` and `foveate serve <recipe>`, by Locust.

    Writes `<out>/loadtest/{requests.csv, table.csv, table.md}`. Both servers hold the model at the same time. Run
    nothing else on the machine.

    Args:
        recipe: A recipe file, or the name of a method that needs no budget.
        concurrency: Numbers of clients that ask at the same time.
        requests: Requests of all clients in a round, for each number of clients and each server.
        seconds: Time after which a round sends no further request.
        rounds: Number of times that each setting is measured.
        new_tokens: Number of tokens of every answer; the end-of-text token does not end it.
        cached: Number of images, and of prompts, that both servers keep for later questions (`foveate serve --cached`).
            Requests are about 16 images.
        model: "reference" (shipped), a checkpoint folder, or a hub ID.
        companion: Checkpoint of the CLIP model that the tower was taken from, for methods that compare patches with
            text.
        device: Device of the model, such as cpu or cuda; "auto" is cuda if there is one, else mps, else cpu.
        dtype: Type of weights and activations; "auto" is float32 on a CPU, and elsewhere that of the checkpoint.
        out: Folder of all results.
    """
    check_names((recipe,))
    check_load(concurrency, requests, seconds)
    check_length(new_tokens, rounds)
    whole("cached", cached, least=0)
    from foveate.analysis.load.data import request_rows
    from foveate.analysis.load.report import report
    from foveate.analysis.rounds import Rounds
    from foveate.analysis.speed.data import FULL, speed_folder, versions
    from foveate.data.load import load_samples
    from foveate.data.sample import first_of_images
    from foveate.data.scenes.questions import QUESTION_KINDS
    from foveate.models.loading.automatic import device_for
    from foveate.profiling.clock import device_name
    from foveate.serving.requests import bodies_of

    if (label := label_of(recipe)) == FULL:
        raise OptionError("the method to compare with full is full itself: give a recipe file")
    folder = speed_folder(out, "loadtest")
    samples = first_of_images(load_samples(SCENES, "test", limit=16 * len(QUESTION_KINDS))).values()
    bodies = bodies_of(model, samples, new_tokens)
    options = ["--model", model, "--device", device, "--dtype", dtype, "--cached", str(cached)]
    options += ["--companion", companion] if companion else []
    rows: list[dict[str, Any]] = []
    with server(FULL, options) as full, server(recipe, options) as own, clients() as asking:
        sides = {FULL: full, label: own}
        for url in sides.values():
            asking.ask(Load(url, 1, 4, seconds, bodies))
        for count in concurrency:
            load = {"clients": count, "requests": requests, "seconds": seconds, "bodies": bodies}
            measured = Rounds({name: partial(asking.ask, Load(url, **load)) for name, url in sides.items()})
            for _ in range(rounds):
                measured()
            for name, found in measured.measured.items():
                rows += [row for number, one in enumerate(found) for row in request_rows(count, name, number, one)]
    where = {"model": model, "device": device_name(device_for(device)), "versions": versions()}
    print(report(rows, where | {"date": date.today().isoformat(), "new_tokens": new_tokens, "cached": cached}, folder))
