"""Scorers: formulas for how much a patch matters, one file each."""

from foveate.scorers.cls_attention import ClsAttention
from foveate.scorers.cls_ensemble import ClsEnsemble
from foveate.scorers.constant import Constant
from foveate.scorers.cross_and_self_attention import CrossAndSelfAttention
from foveate.scorers.debiased import Debiased
from foveate.scorers.distinctness import Distinctness
from foveate.scorers.evidence import Evidence
from foveate.scorers.frame_change import FrameChange
from foveate.scorers.hybrid import Hybrid
from foveate.scorers.pixel_filter import Contrast, Edges, Saturation
from foveate.scorers.pooling_attention import PoolingAttention
from foveate.scorers.projector_sensitivity import ProjectorSensitivity
from foveate.scorers.prompt_attention import PromptAttention
from foveate.scorers.propagated_norm import PropagatedNorm
from foveate.scorers.random import Random
from foveate.scorers.received_attention import ReceivedAttention
from foveate.scorers.reconstruction_error import ReconstructionError
from foveate.scorers.response_attention import ResponseAttention
from foveate.scorers.text_similarity import TextSimilarity
from foveate.scorers.uniform import Uniform
from foveate.scorers.wide_cls_attention import WideClsAttention
from foveate.scorers.without_sinks import WithoutSinks

__all__ = [
    "ClsAttention",
    "ClsEnsemble",
    "Constant",
    "Contrast",
    "CrossAndSelfAttention",
    "Debiased",
    "Distinctness",
    "Edges",
    "Evidence",
    "FrameChange",
    "Hybrid",
    "PoolingAttention",
    "ProjectorSensitivity",
    "PromptAttention",
    "PropagatedNorm",
    "Random",
    "ReceivedAttention",
    "ReconstructionError",
    "ResponseAttention",
    "Saturation",
    "TextSimilarity",
    "Uniform",
    "WideClsAttention",
    "WithoutSinks",
]
