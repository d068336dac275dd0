"""A compressor of one's own knows nothing of what cuts and the language model read later."""

from dataclasses import dataclass

import pytest
import torch

from foveate.compressors import Compressor, DecoderCompressor, Identity, Pipeline, TowerCompressor, VisionCompressor
from foveate.compressors.base import compressed_by
from foveate.core.compression import Compressed, Compression, Decision
from foveate.core.errors import FoveateError
from foveate.core.needs import ClsRows, Deepstack, Fingerprint
from foveate.data.load import load_samples
from foveate.evaluation import EvalConfig, evaluate
from foveate.methods.fitting import with_fallbacks
from foveate.models.loading.load import adapt, load
from foveate.models.runtime.images import LiveImages
from foveate.reductions import Bipartite
from foveate.scorers import ClsAttention, Random, ReceivedAttention
from foveate.testing.checkpoints import save_family
from foveate.testing.families import FAMILIES, image_inputs


@dataclass(frozen=True)
class EveryOther(Compressor):
    def compress(self, images):
        sources, trace = images.encode(())
        kept = torch.arange(0, trace.patches, 2).expand(len(sources), -1)
        compression = Compression(kept)
        decision = Decision(torch.zeros(len(sources), trace.patches), compression)
        return Compressed.of(images.project(compression.apply(sources)), decision, images.arrangement)


class Counted(LiveImages):
    calls = 0

    def encode(self, needs):
        self.calls += 1
        return super().encode(needs)


def images_of(family):
    adapter, image = adapt(FAMILIES[family]()), image_inputs(family)[0]
    return adapter, Counted(adapter, image, adapter.arrangements(image, [])[0])


@torch.no_grad()
def test_levels_of_deepstack_reach_the_model_without_help_of_the_compressor():
    adapter, images = images_of("Qwen3-VL")
    found = compressed_by(EveryOther(), images, adapter.extra_needs)
    assert images.calls == 1
    expected = images.encode((Deepstack(),))[1][Deepstack()]
    assert torch.equal(found.carried[Deepstack()], expected)
    assert EveryOther().compress(images).carried == {}


@torch.no_grad()
@pytest.mark.parametrize("compressor", [EveryOther(), Identity()], ids=repr)
def test_what_a_later_cut_reads_is_recorded_in_the_same_encoding(compressor):
    adapter, images = images_of("LLaVA-1.5")
    cut = DecoderCompressor(ClsAttention(-2), 3, layer=2)
    found = compressed_by(Pipeline((compressor, cut)), images, adapter.extra_needs)
    assert images.calls == 1
    assert list(found.carried) == [ClsRows((-2,))]


@torch.no_grad()
def test_a_compressor_that_encodes_nothing_gets_an_encoding_for_the_cuts():
    adapter, images = images_of("LLaVA-1.5")
    tower = TowerCompressor(Bipartite(), 9)
    assert compressed_by(tower, images).carried == {}
    assert images.calls == 0
    cut = DecoderCompressor(Random(), 3, layer=2)
    assert list(compressed_by(Pipeline((tower, cut)), images, adapter.extra_needs).carried) == [Fingerprint()]
    assert images.calls == 1


@torch.no_grad()
def test_a_cut_of_a_fallback_reads_received_attention_of_one_encoding():
    adapter, images = images_of("Qwen3-VL")
    cut = DecoderCompressor(ClsAttention(-2), 3, layer=2)
    pipeline = with_fallbacks(Pipeline((VisionCompressor(ReceivedAttention(-2), 9), cut)), adapter.tower)
    carried = compressed_by(pipeline, images, adapter.extra_needs).carried
    assert set(carried) == {*pipeline.cuts[0].needs, Deepstack()}
    assert images.calls == 1
    assert repr(pipeline.cuts[0]) == repr(cut)


def test_a_compressor_without_a_plan_says_what_to_define():
    with pytest.raises(FoveateError, match=r"EveryOther\(\).*define plan\(patches, depth\)"):
        EveryOther().plan(9, 2)


@torch.no_grad()
def test_attached_and_evaluated_it_answers_alike_on_a_model_with_deepstack(tmp_path):
    checkpoint = str(save_family("Qwen3-VL", tmp_path / "model"))
    loaded = load(checkpoint)
    table = evaluate(EvalConfig(EveryOther(), checkpoint, limit=6, max_new_tokens=3, out=tmp_path)).read()
    evaluated = dict(zip(table["sample_id"].to_pylist(), table["prediction"].to_pylist(), strict=True))
    for sample in load_samples("scenes", "test", 6):
        images, (arrangement,) = loaded.image_inputs([sample.image])
        ids = torch.tensor([loaded.prompt(sample.question, arrangement)])
        with EveryOther().attached(loaded) as result:
            output = loaded.model.generate(input_ids=ids, **images, max_new_tokens=3, do_sample=False)
        assert evaluated[sample.id] == loaded.text(output[:, ids.shape[1] :].tolist())[0]
        assert result.kept[0].tolist() == list(range(0, arrangement.patches, 2))
