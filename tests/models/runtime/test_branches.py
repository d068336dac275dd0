import torch

from foveate.models.runtime.branches import Branches, SharedRows

TEXTS = [[[5, 6, 7], [8]], [[9, 10]]]


def test_texts_of_a_prompt_follow_each_other_in_its_row():
    branches = Branches.of(TEXTS, 0, torch.device("cpu"))
    assert branches.packed.tolist() == [[5, 6, 7, 8], [9, 10, 0, 0]]
    assert branches.text.tolist() == [[0, 0, 0, 1], [2, 2, -1, -1]]
    assert branches.offset.tolist() == [[0, 1, 2, 0], [0, 1, 0, 0]]
    assert torch.equal(
        branches.packed[branches.owner[:, None], branches.column][branches.real], branches.tokens[branches.real]
    )


def test_a_token_attends_to_its_prompt_and_to_earlier_tokens_of_its_own_text_alone():
    branches = Branches.of(TEXTS, 0, torch.device("cpu"))
    mask = branches.mask(torch.tensor([[False, True], [True, True]]))
    assert mask.shape == (2, 1, 4, 6)
    assert mask[0, 0].int().tolist() == [
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 1, 0],
        [0, 1, 0, 0, 0, 1],
    ]
    assert mask[1, 0, :2].int().tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]]


def shared(prompt=2):
    """Places of the texts behind prompts of so many slots."""
    branches = Branches.of(TEXTS, 0, torch.device("cpu"))
    return branches, SharedRows(branches.owners, branches.slots(prompt), (2, prompt + branches.packed.shape[1]))


def test_keys_of_chosen_texts_are_those_of_their_prompt_and_their_own_tokens_without_gaps():
    branches, places = shared()
    prompts = torch.tensor([[False, True], [True, True]])
    real = torch.cat([prompts[branches.owner], branches.real], 1)
    real[0, -1] = False  # refused
    own, left = places.chosen([0, 2]).of(real[[0, 2]])
    keys = torch.arange(12.0).view(2, 1, 6, 1)
    assert left.tolist() == [[False, True, True, True], [True] * 4]
    assert own(keys)[0, 0, 1:, 0].tolist() == [1, 2, 3]
    assert own(keys)[1, 0, :, 0].tolist() == [6, 7, 8, 9]


def test_a_further_token_of_each_text_stands_behind_the_row_of_its_prompt():
    branches, places = shared()
    new = places.next_token
    assert new.packed(torch.tensor([50, 60, 70])).tolist() == [[50, 60], [70, 0]]
    real = torch.cat([torch.ones(3, 2, dtype=torch.bool), branches.real, torch.ones(3, 1, dtype=torch.bool)], 1)
    assert places.extended().mask(real).int().tolist() == [
        [1, 1, 1, 1, 1, 0, 1, 0],  # prompt, three tokens of the first text, and its new one
        [1, 1, 0, 0, 0, 1, 0, 1],
        [1, 1, 1, 1, 0, 0, 1, 0],
    ]
    assert places.extended().chosen([1]).next_token.column.tolist() == [0]


def test_texts_are_separated_once_shared_rows_are_mostly_padding_or_hold_more_than_rows_of_their_own():
    _, places = shared()
    assert places.worthwhile  # 2 rows of 8 slots instead of 3 of 6
    assert not places.chosen([0, 1]).worthwhile  # both in one row, so half of the columns would be padding
    places = places.extended().extended()
    assert places.worthwhile  # 2 of 12 instead of 3 of 8
    assert not places.extended().worthwhile  # 2 of 14 instead of 3 of 9
