"""Writes a method as a program of other engines: from features and attention rows to the kept patches."""

from importlib import import_module
from pathlib import Path

from tyro.conf import Positional

from foveate.core.budget import check_budgets
from foveate.core.values import whole
from foveate.data.names import SCENES
from foveate.export.names import ONNX, check_path, golden_of
from foveate.methods.registry import check_names
from foveate.models.loading.names import REFERENCE

_IMAGES = 4  # golden inputs


def main(
    method: Positional[str],
    program: Positional[Path],
    keep: int | float | None = None,
    model: str = REFERENCE,
    size: int | None = None,
) -> None:
    """Writes a method as a program that runs without foveate, in torch.export's format or in ONNX.

    The program reads features and attention rows of the vision tower for any number of images, and gives the kept
    patches, ascending; methods that merge also give the tokens. Golden inputs and outputs are written beside it, as
    <name>.golden.safetensors, and the program is checked on them. Older files of these names are replaced.

    Which methods can be exported, and how engines use the result:
    https://github.com/foveate/foveate/blob/main/docs/how_to/serving.md

    Args:
        method: A recipe file such as recipe.json, the name of a method, or your own as ./file.py:function or
            package.module:function.
        program: The file to write; its name ends in .pt2 or .onnx.
        keep: Budget of a method, in its authors' definition: a count, or a fraction of an image's patches; a recipe
            file has its own.
        model: "reference" (shipped), a checkpoint folder, or a hub ID; its vision tower determines the shapes.
        size: Side of the golden images in pixels, for models that accept images of any size: a program is for images of
            one grid of patches.
    """
    check_path(program)
    check_names([method])
    check_budgets([] if keep is None else [keep], needed=False)
    if size is not None:
        whole("size", size, least=1)
    if program.suffix == ONNX:
        import_module("foveate.export.onnx_file")  # a package that is missing is named before the model is loaded
    from foveate.data.load import load_samples
    from foveate.data.sample import first_of_images
    from foveate.data.scenes.questions import QUESTION_KINDS
    from foveate.export.description import shown
    from foveate.export.files import export
    from foveate.methods.fitting import for_model
    from foveate.models.loading.load import load

    loaded = load(model, "cpu", "float32")
    compressor = for_model(method, keep, {}, loaded.adapter)
    samples = first_of_images(load_samples(SCENES, "test", limit=_IMAGES * len(QUESTION_KINDS)))
    images = [sample.image for sample in samples.values()][:_IMAGES]
    images = [image.resize((size, size)) for image in images] if size else images
    made = export(program, method, compressor, loaded, images)
    print(f"{program}: {shown(made['inputs'])} -> {shown(made['outputs'])}")
    print(f"{golden_of(program)}: inputs and outputs for {_IMAGES} images, on which the program was checked")
