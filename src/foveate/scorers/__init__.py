"""Reasons to keep a patch, one file each."""

from foveate.scorers.cls_attention import ClsAttention
from foveate.scorers.cls_ensemble import ClsEnsemble
from foveate.scorers.evidence import Evidence
from foveate.scorers.random import Random
from foveate.scorers.uniform import Uniform

__all__ = ["ClsAttention", "ClsEnsemble", "Evidence", "Random", "Uniform"]
