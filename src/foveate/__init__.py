"""foveate: which of an image's visual tokens does a multimodal language model need?"""

from importlib.metadata import version

__version__ = version("foveate")
