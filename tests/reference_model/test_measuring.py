"""Measurements of model cards against scenes and evaluations."""

import numpy as np
import pandas as pd

from foveate.compressors import VisionCompressor
from foveate.data.scenes.scene import Role
from foveate.evaluation import EvalConfig
from foveate.models.loading.load import load
from foveate.scorers import ClsAttention
from reference_model.acceptance import records_of
from reference_model.attention import aucs, scenes_of
from reference_model.places import scores_at_input


def test_aucs_compare_the_named_patches():
    scenes = scenes_of("test", 30)
    large = [any(thing.side == 2 for thing in scene.things) for scene in scenes]
    scores = np.zeros((len(scenes), 144))
    for row, scene in zip(scores, scenes, strict=True):
        row[[patch for thing in scene.things for patch in thing.patches]] = 2
        for thing in scene.things:
            if thing.side == 1:
                row[list(thing.patches)] = 1
        row[scene.roles == Role.STRING] = -1
    found = aucs(scores, scenes)
    assert (found["things"] == 1).all() and (found["decoys"] == 0.5).all() and (found["details"] < 0.5).all()
    assert found["large"].notna().tolist() == large and (found["large"].dropna() == 1).all()
    assert 5 < sum(large) < len(scenes)
    small = aucs(np.where(scores == 2, 0, scores), scenes)  # large things rank as scrambled ones, small things above
    assert (small["large"].dropna() == 0.5).all()


def test_given_patches_at_the_input_get_the_scores_of_their_evaluation(tmp_path):
    config = EvalConfig(VisionCompressor(ClsAttention(4), 36, positions="original"), limit=56, out=tmp_path)
    records = records_of(config, config.compressor).sort_values("sample_id", ignore_index=True)
    kept = dict(zip(records["sample_id"], records["kept"], strict=True))
    found = scores_at_input(config, load("reference"), kept)
    columns = ["sample_id", "image_id", "score"]
    pd.testing.assert_frame_equal(found[columns], records[columns], check_dtype=False)
