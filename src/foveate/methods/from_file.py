"""Recipe files in place of methods' names, and the warning about another model."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from warnings import warn

from torch import nn

from foveate.compressors import Compressor
from foveate.compressors.recipe_file import RecipeFile, chosen_for, read
from foveate.methods.registry import is_recipe_file, parts_of
from foveate.models.backbone.adapter import Adapter

if TYPE_CHECKING:  # transformers takes seconds to import
    import foveate.models.loading.load


@dataclass(frozen=True)
class FromFile:
    """A recipe from a budget to a compressor that a file describes; the budget is the file's own.

    Attributes:
        file: Its content.
        path: Its path.
    """

    file: RecipeFile
    path: str

    def __call__(self, keep: object = None) -> Compressor:
        return self.file.compressor

    @property
    def __name__(self) -> str:
        return Path(self.path).name


def load_recipe(
    path: str | Path, model: "nn.Module | foveate.models.loading.load.LoadedModel | None" = None
) -> Compressor:
    """Returns the compressor of a recipe file.

    Args:
        path: The file that `Compressor.save` or `foveate recommend` wrote.
        model: The model that it is used on; a warning says if it was chosen for another one.

    Raises:
        RecipeError: The file cannot be read, is damaged, is no recipe, or comes from a newer version.
        UnsupportedModel: No adapter serves the model.
    """
    from foveate.models.loading.load import LoadedModel, adapt

    file = read(path)
    if model is not None:
        _warn(str(path), file, model.adapter if isinstance(model, LoadedModel) else adapt(model))
    return file.compressor


def warn_of_model(name: str, adapter: Adapter) -> None:
    """Warns if a method's name is that of a recipe file that was chosen for another model.

    Args:
        name: Name of the method; see `fitting.method`.
        adapter: The adapter of the model that it is used on.

    Raises:
        RecipeError: The file is no recipe.
    """
    if is_recipe_file(name):
        plain, _ = parts_of(name)
        _warn(plain, read(plain), adapter)


def _warn(path: str, file: RecipeFile, adapter: Adapter) -> None:
    if file.model is not None and (found := file.misfit(chosen_for(adapter))):
        warn(
            f"recipe {path!r} was chosen for another model ({found}): what it says about accuracy and speed does not "
            "hold here; `foveate recommend` chooses one for this model",
            stacklevel=3,
        )
