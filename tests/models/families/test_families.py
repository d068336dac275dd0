"""Every family fulfils the contract of adapters, on a tiny random model."""

from foveate.testing.families import FAMILIES, image_inputs, placeholders
from foveate.testing.models import ModelContract


class Contract(ModelContract):
    family = ""

    def model(self):
        return FAMILIES[self.family]()

    def placeholders(self, adapter, count):
        return placeholders(self.family, adapter.image_token, count)

    def image_inputs(self):
        return image_inputs(self.family)


for _name in FAMILIES:
    _kind = type(f"Test{_name.replace('-', '').replace('.', '').replace(' ', '')}", (Contract,), {"family": _name})
    globals()[_kind.__name__] = _kind
