"""Recipes of published methods and controls: functions from a budget to a compressor. `METHODS` holds them by name.

`keep` is the budget as the method's authors define it; see `foveate.core.token_account` for what it costs. Default
layers are those of the authors, `AtDepth` in a vision tower of 24 layers and `BlockAtDepth` in a language model of 32
blocks; `foveate.methods.fitting` scales them to other models.
"""

from foveate.methods.recipes import after_tower, controls, in_language_model, in_stages, in_tower, video

__all__ = ["after_tower", "controls", "in_language_model", "in_stages", "in_tower", "video"]
