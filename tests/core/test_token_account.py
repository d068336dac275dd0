import pytest
import torch

from foveate.core.token_account import TokenAccount, account


@pytest.fixture
def two_prompts():
    """Four blocks; the second prompt loses tokens before blocks 1 and 3."""
    return account([torch.tensor([16, 144]), torch.tensor([16, 36]), torch.tensor([16, 36]), torch.tensor([16, 8])])


def test_every_number_that_a_paper_may_mean_can_be_read(two_prompts):
    assert two_prompts.per_block.tolist() == [[16, 16, 16, 16], [144, 36, 36, 8]]
    assert two_prompts.given.tolist() == [16, 144]
    assert two_prompts.left.tolist() == [16, 8]
    assert two_prompts.equivalent.tolist() == [16, 56]
    assert two_prompts.cached.tolist() == [64, 224]


def test_as_a_number_it_is_the_mean_of_the_equivalent_tokens(two_prompts):
    assert float(two_prompts) == 36


def test_it_says_what_the_blocks_see(two_prompts):
    assert repr(two_prompts) == "TokenAccount(36 equivalent tokens; per block: 80, 26, 26, 12)"


def test_it_cannot_be_changed(two_prompts):
    with pytest.raises(AttributeError):
        two_prompts.per_block = torch.zeros(1, 1)
    assert isinstance(two_prompts, TokenAccount)
