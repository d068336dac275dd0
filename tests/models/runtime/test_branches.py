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


def test_keys_of_chosen_texts_are_those_of_their_prompt_and_their_own_tokens_without_gaps():
    branches = Branches.of(TEXTS, 0, torch.device("cpu"))
    prompts = torch.tensor([[False, True], [True, True]])
    real = torch.cat([prompts[branches.owner], branches.real], 1)
    real[0, -1] = False  # refused
    rows = torch.tensor([2, 0])
    places, left = SharedRows(branches.owner, branches.slots(2)).chosen(rows, real[rows])
    keys = torch.arange(12.0).view(2, 1, 6, 1)
    assert left.tolist() == [[True] * 4, [False, True, True, True]]
    assert places.of(keys)[0, 0, :, 0].tolist() == [6, 7, 8, 9]
    assert places.of(keys)[1, 0, 1:, 0].tolist() == [1, 2, 3]
