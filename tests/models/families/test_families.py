"""Every family fulfils the contract of adapters, on a tiny random model, for images and for videos."""

from foveate.models.loading.load import adapt
from foveate.testing.families import FAMILIES, VIDEOS, frames_of, image_inputs, placeholders, video_inputs
from foveate.testing.matrix import with_tokenizer
from foveate.testing.models import ModelContract


class Contract(ModelContract):
    family = ""

    def model(self):
        return FAMILIES[self.family]()

    def placeholders(self, adapter, number, count):
        return placeholders(self.family, adapter.image_token, count)

    def image_inputs(self):
        return image_inputs(self.family)


class VideoContract(Contract):
    def adapter(self, model):
        return adapt(model).other

    def placeholders(self, adapter, number, count):
        frames = frames_of(self.image_inputs()[number])
        return placeholders(self.family, adapter.image_token, count, frames)

    def attachable(self, model):
        return with_tokenizer(self.family, model)

    def image_inputs(self):
        return video_inputs(self.family)


def _named(name, base):
    return type(f"Test{name.replace('-', '').replace('.', '').replace(' ', '')}", (base,), {})


for _base, _names in ((Contract, FAMILIES), (VideoContract, VIDEOS)):
    for _name in _names:
        _kind = _named(_name + "Videos" * (_base is VideoContract), _base)
        _kind.family = _name
        globals()[_kind.__name__] = _kind
