"""A command whose processes share evaluations: run by the tests of `evaluation.devices`, once per launcher."""

from dataclasses import replace

from foveate.bias.measure import measure
from foveate.bias.plan import BiasPlan
from foveate.cli import run
from foveate.core.errors import DeviceError
from foveate.evaluation import evaluate
from foveate.methods import fastv, vtc_cls
from foveate.options import Flat, Options


def evaluations(config):
    """Questions in uneven numbers of batches, some about one image in two of them; and fewer batches than devices."""
    return (
        replace(config, compressor=vtc_cls(36, 1), limit=66, batch_size=7),
        replace(config, compressor=fastv(9, 2), limit=66, batch_size=16),
        replace(config, compressor=vtc_cls(9, 1), limit=11, batch_size=256),
    )


def main(options: Flat = Options("shared")) -> None:
    """Evaluates: all; what is missing once half of the records are gone; until there is enough. And measures."""
    for config in evaluations(options.config):
        evaluate(config)
    first, second, _ = evaluations(options.config)
    folder = evaluate(replace(first, out=options.out / "resumed")).folder
    (folder / "DONE").unlink()
    for part in sorted(folder.glob("part-*"))[::2]:
        part.unlink()
    evaluate(replace(first, out=options.out / "resumed", batch_size=5))
    evaluate(replace(second, out=options.out / "stopped", batch_size=4), order=3, enough=lambda t: t.num_rows >= 17)
    try:
        measure(options.config, BiasPlan())
    except DeviceError as error:
        print(error)


if __name__ == "__main__":
    run(main)
