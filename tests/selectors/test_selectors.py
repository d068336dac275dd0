import pytest

from foveate.selectors import TopK
from foveate.testing.contracts import SelectorContract


@pytest.mark.parametrize("given", [TopK()], ids=repr)
class TestEverySelector(SelectorContract):
    @pytest.fixture(autouse=True)
    def _given(self, given):
        self.given = given

    def selector(self):
        return self.given
