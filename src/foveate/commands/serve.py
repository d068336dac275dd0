"""Serves a compressed model by the OpenAI-compatible server of transformers."""

from typing import Literal

from tyro.conf import Positional

from foveate.core.errors import OptionError
from foveate.core.values import whole
from foveate.methods.registry import check_names
from foveate.models.loading.names import AUTO, REFERENCE, Dtype
from foveate.serving.address import LOOPBACK, bound, check_port, url_of


def main(
    recipe: Positional[str],
    model: str = REFERENCE,
    companion: str | None = None,
    kept: bool = False,
    cached: int = 8,
    first_choice: bool = False,
    host: str = LOOPBACK,
    port: int = 8000,
    largest_mib: float = 64,
    device: str = AUTO,
    dtype: Dtype | Literal["auto"] = AUTO,
) -> None:
    """Answers chat completions with images, as `transformers serve` does, with the model compressed by a recipe.

    Images are data URLs. `usage` has `compressed_prompt_tokens` beside `prompt_tokens`. Requests take turns on the
    model. Later questions about the same images, in one conversation or in several, do not encode them again, and
    compute only what differs from the latest prompt about them (`usage.prompt_tokens_details.cached_tokens`). Ctrl-C
    stops the server after the requests that have begun.

    Args:
        recipe: A recipe file, or the name of a method that needs no budget; "full" is the stock model.
        model: "reference" (shipped), a checkpoint folder, or a hub ID.
        companion: Checkpoint of the CLIP model that the tower was taken from, for methods that compare patches with
            text.
        kept: Add the kept patches of each image to the response, in the fields of
            https://github.com/foveate/foveate/blob/main/docs/reference/kept_file.md
        cached: Number of images, and of prompts with their keys and values, that are kept for later questions; 0 keeps
            none.
        first_choice: Keep what a method that reads the question chose for the first question about an image, also for
            later ones: faster, but answers then depend on what was asked before.
        host: Address to listen on; anyone who can reach another one than this machine's own may ask.
        port: Port to listen on; 0 means any free one.
        largest_mib: Largest body of a request, in MiB.
        device: Device of the model, such as cpu or cuda; "auto" is cuda if there is one, else mps, else cpu.
        dtype: Type of weights and activations; "auto" is float32 on a CPU, and elsewhere that of the checkpoint.
    """
    check_names((recipe,))
    check_port(port)
    if not largest_mib > 0:
        raise OptionError(f"largest_mib={largest_mib}: expected more than 0")
    whole("cached", cached, least=0)
    if first_choice and not cached:
        raise OptionError("first_choice with cached=0: nothing is kept; leave one of them out")
    with bound(host, port) as listening:
        from foveate.methods.fitting import for_model
        from foveate.models.loading.automatic import resolved
        from foveate.models.loading.load import load
        from foveate.models.runtime.prefix_cache import PrefixCache
        from foveate.serving.models import ServedModel
        from foveate.serving.server import app_of, serve

        loaded = load(model, *resolved(model, device, dtype), companion=companion)
        compressor = for_model(recipe, None, {}, loaded.adapter)
        prefixes = PrefixCache(cached, first_choice) if cached and not compressor.cuts else None
        app = app_of(ServedModel(loaded, compressor, prefixes), kept, int(largest_mib * 2**20))
        listening.listen()  # from here on connections wait for the server
        print(f"{model} with {compressor} on {url_of(listening)}; Ctrl-C stops it", flush=True)
        serve(app, listening)
    print("stopped")
