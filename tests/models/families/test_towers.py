"""Answers of every family's adapter about its tower, against values computed from the stock tower, tile by tile."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from transformers.image_processing_utils import select_best_resolution

from foveate.core.errors import LayerError, UnsupportedNeed
from foveate.core.needs import ClsRows, Deepstack, Features, FrameVectors, Keys, PoolingRows, ReceivedRows
from foveate.models.loading.load import adapt
from foveate.testing.families import FAMILIES, SPREAD, VIDEOS, image_inputs, llava_onevision, video_inputs

DEPTH, HEADS, WIDTH, SIDE = 4, 4, 8, 6
LAYERS = range(DEPTH)
OF_VIDEOS = "videos of "
KINDS = (*FAMILIES, *(OF_VIDEOS + name for name in VIDEOS))
FRAMES = (OF_VIDEOS + "LLaVA-OneVision", OF_VIDEOS + "LLaVA-NeXT-Video")
TILES = OF_VIDEOS + "InternVL"
TILED = (
    "LLaVA-1.5",
    "LLaVA-NeXT",
    "LLaVA-OneVision",
    "LLaVA-NeXT-Video",
    "InternVL",
    "Gemma 3",
    *SPREAD,
    *FRAMES,
    TILES,
)
WITHOUT_CLS = ("LLaVA-OneVision", "Gemma 3", *SPREAD, FRAMES[0])
QWEN = tuple(kind for kind in KINDS if kind.startswith(("Qwen", "GLM", OF_VIDEOS + "Qwen")))
ALIKE = ([0, 2], [1], [3])  # images of one arrangement each


@pytest.fixture(autouse=True)
def _without_gradients():
    with torch.no_grad():
        yield


@cache
def adapter_of(family):
    model = adapt(FAMILIES[family.removeprefix(OF_VIDEOS)]())
    return model.other if family.startswith(OF_VIDEOS) else model


def inputs_of(family):
    """Returns the inputs of four images or videos."""
    of_videos = family.startswith(OF_VIDEOS)
    return video_inputs(family.removeprefix(OF_VIDEOS)) if of_videos else image_inputs(family)


def joined(family, numbers):
    """Returns the inputs of these images, and the arrangement of each."""
    adapter, every = adapter_of(family), inputs_of(family)
    images = {name: torch.cat([every[n][name] for n in numbers]) for name in every[0]}
    runs = [9 * len(pixels_of(family, every[n])) for n in numbers] if family in ("InternVL", TILES, *SPREAD) else []
    return images, adapter.arrangements(images, runs)


def answered(family, numbers, needs):
    images, arrangements = joined(family, numbers)
    assert len(set(arrangements)) == 1
    return adapter_of(family).encode(images, arrangements[0], needs)


def close(found, expected):
    assert found.shape == expected.shape
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def needs_of(family):
    adapter = adapter_of(family)
    received = [layer for layer in LAYERS if "Qwen2.5-VL" not in family or layer in (1, 3)]
    return (
        *([ClsRows(tuple(LAYERS))] if adapter.tower.has_cls else []),
        *(ReceivedRows(layer, others) for layer in received for others in (False, True)),
        *(Keys(layer) for layer in LAYERS),
        *(Features(), Features(projected=True)),
        *([Deepstack()] if adapter.deepstack_levels else []),
    )


@pytest.mark.parametrize("family", KINDS)
def test_a_batch_is_answered_as_its_images_alone_are(family):
    needs = needs_of(family)
    sources, values = answered(family, [0, 2], needs)
    assert set(values) == set(needs)
    for row, number in enumerate((0, 2)):
        alone, one = answered(family, [number], needs)
        close(sources[row : row + 1], alone)
        for need in needs:
            close(values[need][row : row + 1], one[need])


@pytest.mark.parametrize("family", [name for name in KINDS if "LLaVA-OneVision" not in name])
def test_the_exact_projector_makes_projected_features_of_unprojected_ones(family):
    _, values = answered(family, [0, 2], [Features(), Features(projected=True)])
    project = adapter_of(family).exact_projector(torch.float64)
    close(project(values[Features()].double()).float(), values[Features(projected=True)])


@pytest.mark.parametrize("family", KINDS)
def test_a_fingerprint_tells_images_apart_and_nothing_else(family):
    def hashed(*numbers):
        images, arrangements = joined(family, numbers)
        return adapter_of(family).fingerprints(images, arrangements[0]).tolist()

    found = [one for number in (0, 1, 2, 3) for one in hashed(number)]
    assert len(set(found)) == 4
    assert hashed(2, 0, 2) == [found[2], found[0], found[2]]


def pixels_of(family, image):
    """Returns the tiles of one image that its tokens come from."""
    if family in FRAMES:
        return image["pixel_values_videos"][0]
    if family in SPREAD:
        return image["pixel_values"][0, image["pixel_attention_mask"][0, :, 0, 0].bool()]
    if "image_sizes" not in image:
        return image["pixel_values"]
    rows, columns = enlargement(image)
    return image["pixel_values"][0, : 1 + rows * columns]


def enlargement(image):
    """Returns the number of tiles of an image's enlargement, down and across."""
    points = adapter_of("LLaVA-NeXT").model.config.image_grid_pinpoints
    height, width = select_best_resolution(image["image_sizes"][0].tolist(), points)
    return height // 24, width // 24


def stock_tower(family, tiles):
    """Runs the tower eagerly; returns attention (tile, layer, head, query, key), keys (tile, layer, token, head, dim)
    and the hidden states of all layers."""
    model = adapter_of(family).model.model
    tower, keys = model.vision_model if family in SPREAD else model.vision_tower, []
    attentions = [m for m in tower.modules() if hasattr(m, "k_proj")]

    def hear(module, args, kwargs):
        states = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        key = getattr(module, "k_norm", lambda key: key)(module.k_proj(states))
        keys.append(key.unflatten(-1, (HEADS, WIDTH)))

    hooks = [module.register_forward_pre_hook(hear, with_kwargs=True) for module in attentions]
    tower.set_attn_implementation("eager")
    output = tower(tiles, output_attentions=True, output_hidden_states=True)
    tower.set_attn_implementation("sdpa")
    for hook in hooks:
        hook.remove()
    return torch.stack(output.attentions, 1), torch.stack(keys, 1), output.hidden_states


def placed(family, image, tiles):
    """Orders (tile, patch, ...) as (token, ...), one token after the other; `tiles` holds unmerged patches."""
    square = tiles.unflatten(1, (SIDE, SIDE))
    if family == "LLaVA-1.5":
        return tiles[0]
    if family == FRAMES[0]:
        half = F.interpolate(tiles.flatten(2).mT.unflatten(2, (SIDE, SIDE)), (3, 3), mode="bilinear")
        return half.flatten(2).mT.flatten(0, 1).unflatten(1, tiles.shape[2:])
    if family in ("InternVL", TILES, FRAMES[1], "Gemma 3", *SPREAD):
        return torch.stack(
            [
                torch.stack([tile[2 * r + i, 2 * c + j] for i in (0, 1) for j in (0, 1)]).mean(0)
                for tile in square
                for r in range(SIDE // 2)
                for c in range(SIDE // 2)
            ]
        )
    (down, across), (height, width) = enlargement(image), image["image_sizes"][0].tolist()
    rows, columns = range(down * SIDE), range(across * SIDE)
    if width / height > across / down:  # the enlargement was padded above and below
        padding = (len(rows) - int(height * len(columns) / width)) // 2
        rows = rows[padding : len(rows) - padding]
    else:
        padding = (len(columns) - int(width * len(rows) / height)) // 2
        columns = columns[padding : len(columns) - padding]
    enlarged = [square[1 + r // SIDE * across + c // SIDE, r % SIDE, c % SIDE].flatten() for r in rows for c in columns]
    enlarged = torch.stack(enlarged).unflatten(0, (len(rows), len(columns)))
    shrink = (len(rows) * len(columns) / (2 * SIDE**2)) ** 0.5
    if family == "LLaVA-OneVision" and shrink > 1.1:
        size = (int(len(rows) // shrink), int(len(columns) // shrink))
        enlarged = F.interpolate(enlarged.movedim(-1, 0)[None], size, mode="bilinear")[0].movedim(0, -1)
    return torch.cat([tiles[0], enlarged.flatten(0, 1).unflatten(1, tiles.shape[2:])])


def from_others(attention):
    """The mean over the other queries: (..., query, key) to (..., key)."""
    count = attention.shape[-1]
    return (attention * (1 - torch.eye(count))).sum(-2) / (count - 1)


@pytest.mark.parametrize("family", TILED)
@pytest.mark.parametrize("numbers", ALIKE, ids=str)
def test_attention_and_keys_equal_the_eager_towers(family, numbers):
    needs = needs_of(family)
    _, values = answered(family, numbers, needs)
    cls = int(family not in WITHOUT_CLS)
    for row, number in enumerate(numbers):
        image = inputs_of(family)[number]
        attention, keys, _ = stock_tower(family, pixels_of(family, image))
        assert attention.amax((0, 2, 3, 4)).min() > 0.2  # uniform rows would prove nothing
        if cls:
            rows = placed(family, image, attention[:, :, :, 0, 1:].movedim(-1, 1))
            close(values[ClsRows(tuple(LAYERS))][row], rows.movedim(0, -1))
        for layer in LAYERS:
            received = attention[:, layer].mean(2)[..., cls:]
            close(values[ReceivedRows(layer)][row], placed(family, image, received.movedim(-1, 1)).movedim(0, -1))
            received = from_others(attention[:, layer, :, cls:, cls:])
            expected = placed(family, image, received.movedim(-1, 1)).movedim(0, -1)
            close(values[ReceivedRows(layer, others=True)][row], expected)
            expected = placed(family, image, keys[:, layer, cls:])
            if family == "LLaVA-1.5":
                expected = torch.cat([expected, keys[0, layer, :1]])
            close(values[Keys(layer)][row], expected)


@pytest.mark.parametrize("family", TILED)
@pytest.mark.parametrize("numbers", ALIKE, ids=str)
def test_features_equal_those_of_the_stock_tower(family, numbers):
    sources, values = answered(family, numbers, [Features(), Features(projected=True)])
    adapter = adapter_of(family)
    model, cls = adapter.model, int(family not in WITHOUT_CLS)
    for row, number in enumerate(numbers):
        image = inputs_of(family)[number]
        tiles = pixels_of(family, image)
        if family in ("InternVL", TILES, "Gemma 3", *SPREAD):
            tower = model.model.vision_model if family in SPREAD else model.model.vision_tower
            states = tower(tiles).last_hidden_state[:, cls:]
        else:
            states = stock_tower(family, tiles)[2][model.config.vision_feature_layer][:, cls:]
        if family in ("InternVL", TILES, *SPREAD):
            square = states.unflatten(1, (SIDE, SIDE))
            expected = torch.stack(
                [
                    torch.cat([tile[2 * r + i, 2 * c + j] for i in (0, 1) for j in (0, 1)])
                    for tile in square
                    for r in range(SIDE // 2)
                    for c in range(SIDE // 2)
                ]
            )
        else:
            expected = placed(family, image, states)
        if family in SPREAD:
            projected = model.model.connector.modality_projection(expected)
        elif family == "Gemma 3":
            projected = model.model.multi_modal_projector(states).flatten(0, 1)
        else:
            projected = model.model.multi_modal_projector(states if "LLaVA-OneVision" in family else expected)
        if "LLaVA-OneVision" in family:
            projected = placed(family, image, projected)
        close(values[Features()][row], expected)
        close(values[Features(projected=True)][row], projected)
        close(sources[row, : len(expected)], projected if adapter.packs_projected else expected)
        close(adapter.project(sources)[row, : len(expected)], projected)
        close(projected, stock_tokens(family, image))


def stock_tokens(family, image):
    """Returns the stock model's features of one image, without separators."""
    model = adapter_of(family).model
    get = model.get_video_features if "pixel_values_videos" in image else model.get_image_features
    given = {name: value for name, value in image.items() if name != "second_per_grid_ts"}
    tokens = torch.cat([part.reshape(-1, part.shape[-1]) for part in get(**given, return_dict=True).pooler_output])
    if "image_sizes" not in image and family != FRAMES[0]:
        return tokens
    return tokens[(tokens != model.model.image_newline).any(1)]


def shown(image):
    """Returns frame, row and column of each token of the tower, which Qwen2.5-VL orders window by window."""
    frames, height, width = (grid_of(image)[0] // torch.tensor([1, 2, 2])).tolist()
    windows = [(t, r, c) for t in range(frames) for r in range(0, height, 2) for c in range(0, width, 2)]
    by_window = [
        (t, r, c) for t, top, left in windows for r in range(top, top + 2) for c in range(left, left + 2)
        if r < height and c < width
    ]  # fmt: skip
    return by_window, [(t, r, c) for t in range(frames) for r in range(height) for c in range(width)]


def grid_of(image):
    return image["image_grid_thw" if "image_grid_thw" in image else "video_grid_thw"]


def entering(family, image):
    """Returns the input and output of each block of the stock tower for this image alone."""
    visual = adapter_of(family).model.model.visual
    before, after = [], []
    hooks = [block.register_forward_pre_hook(lambda _, args: before.append(args[0])) for block in visual.blocks]
    hooks += [block.register_forward_hook(lambda _, args, output: after.append(output)) for block in visual.blocks]
    visual(next(value for name, value in image.items() if name.startswith("pixel_values")), grid_of(image))
    for hook in hooks:
        hook.remove()
    return before, after


def turned(states, positions):
    """Applies rotary positions to (patch, head, dim): the first half by the row, the second by the column.

    Two numbers half the width apart form a complex number, rotated by position / 10000^(2k / (width / 2)).
    """
    quarter = WIDTH // 4
    speed = 10000.0 ** (-torch.arange(quarter) * 2 / (WIDTH // 2))
    angle = torch.cat([positions[:, :1] * speed, positions[:, 1:] * speed], 1)[:, None]
    complex_ = torch.complex(states[..., : WIDTH // 2].double(), states[..., WIDTH // 2 :].double())
    complex_ = complex_ * torch.polar(torch.ones_like(angle).double(), angle.double())
    return torch.cat([complex_.real, complex_.imag], -1).float()


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize("numbers", ALIKE, ids=str)
def test_qwens_attention_and_keys_equal_a_recomputation_of_the_block(family, numbers):
    needs = needs_of(family)
    _, values = answered(family, numbers, needs)
    for row, number in enumerate(numbers):
        image = inputs_of(family)[number]
        by_window, raster = shown(image)
        order = by_window if "Qwen2.5-VL" in family else raster
        patches = torch.tensor([(2 * r + i, 2 * c + j) for _, r, c in order for i in (0, 1) for j in (0, 1)]).float()
        frame = torch.tensor([t for t, _, _ in order for _ in range(4)])
        apart, frames = frame[:, None] != frame, int(frame.max()) + 1
        before, _ = entering(family, image)

        def tokens(of_patches, order=order, raster=raster):
            means = [of_patches[4 * n : 4 * n + 4].mean(0) for n in range(len(order))]
            return torch.stack([means[order.index(place)] for place in raster])

        for layer, block in enumerate(adapter_of(family).model.model.visual.blocks):
            qkv = block.attn.qkv(block.norm1(before[layer])).unflatten(1, (3, HEADS, WIDTH))
            query, key = turned(qkv[:, 0], patches), turned(qkv[:, 1], patches)
            close(values[Keys(layer)][row], tokens(key))
            if ReceivedRows(layer) in needs:
                logits = torch.einsum("qhd,khd->hqk", query, key) / WIDTH**0.5
                attention = logits.masked_fill(apart, -torch.inf).softmax(-1)  # a frame attends to itself
                assert attention.max() > 0.2  # uniform rows would prove nothing
                close(values[ReceivedRows(layer)][row], tokens(frames * attention.mean(1).T).T)
                others = attention * (1 - torch.eye(len(frame)))
                received = others.sum(1) / (len(frame) // frames - 1)
                close(values[ReceivedRows(layer, others=True)][row], tokens(received.T).T)


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize("numbers", ALIKE, ids=str)
def test_the_mean_query_of_a_frame_in_qwens_last_layer_reads_mean_keys(family, numbers):
    """A token has the mean of its four keys, and every frame a softmax of its own."""
    _, values = answered(family, numbers, [PoolingRows(), FrameVectors()])
    for row, number in enumerate(numbers):
        image = inputs_of(family)[number]
        by_window, raster = shown(image)
        order = by_window if "Qwen2.5-VL" in family else raster
        patches = torch.tensor([(2 * r + i, 2 * c + j) for _, r, c in order for i in (0, 1) for j in (0, 1)]).float()
        block = adapter_of(family).model.model.visual.blocks[-1]
        qkv = block.attn.qkv(block.norm1(entering(family, image)[0][-1])).unflatten(1, (3, HEADS, WIDTH))
        query, key = turned(qkv[:, 0], patches), turned(qkv[:, 1], patches)
        rows = torch.zeros(HEADS, len(raster))
        for frame in range(1 + raster[-1][0]):
            own = [n for n, (t, _, _) in enumerate(order) if t == frame]
            reader = torch.cat([query[4 * n : 4 * n + 4] for n in own]).mean(0)
            logits = torch.stack([(key[4 * n : 4 * n + 4].mean(0) * reader).sum(-1) for n in own], 1) / WIDTH**0.5
            rows[:, [raster.index(order[n]) for n in own]] = logits.softmax(1)
        assert rows.max() > 1.2 * rows.mean()  # uniform rows would prove nothing
        close(values[PoolingRows()][row], rows)
        close(values[FrameVectors()][row], stock_tokens(family, image).unflatten(0, (1 + raster[-1][0], -1)).mean(1))


@cache
def with_head():
    """Returns the adapter of a LLaVA-OneVision whose tower has a pooling head."""
    return adapt(llava_onevision(head=True))


@pytest.mark.parametrize("numbers", ALIKE, ids=str)
@pytest.mark.parametrize("family", ["LLaVA-OneVision", FRAMES[0]])
def test_a_pooling_head_is_read_as_the_stock_tower_does(family, numbers):
    """Its rows are recomputed from its weights; the tiles of an image have a softmax each, and it one vector."""
    adapter = with_head().other if family == FRAMES[0] else with_head()
    every = [inputs_of(family)[number] for number in numbers]
    images = {name: torch.cat([image[name] for image in every]) for name in every[0]}
    arrangement = adapter.arrangements(images, [])[0]
    _, values = adapter.encode(images, arrangement, [PoolingRows(), FrameVectors()])
    tower = adapter.model.model.vision_tower
    transformer = getattr(tower, "vision_model", tower)
    head = transformer.head
    for row, image in enumerate(every):
        output = tower(pixels_of(family, image), output_hidden_states=True)
        states = transformer.post_layernorm(output.hidden_states[-1])
        weights, biases = (getattr(head.attention, f"in_proj_{name}").chunk(3)[:2] for name in ("weight", "bias"))
        query = (head.probe[0, 0] @ weights[0].T + biases[0]).unflatten(0, (HEADS, WIDTH))
        key = (states @ weights[1].T + biases[1]).unflatten(2, (HEADS, WIDTH))
        rows = (torch.einsum("hd,tphd->thp", query, key) / WIDTH**0.5).softmax(2)
        assert rows.max() > 1.2 / SIDE**2  # uniform rows would prove nothing
        close(values[PoolingRows()][row], placed(family, image, rows.movedim(-1, 1)).movedim(0, -1))
        vectors = output.pooler_output
        close(values[FrameVectors()][row], vectors if family == FRAMES[0] else vectors[:1])


def test_towers_without_a_pooling_head_say_so():
    for family in ("LLaVA-OneVision", "InternVL", TILES, "Idefics3"):
        assert not adapter_of(family).tower.pools and PoolingRows() not in answered(family, [0], [PoolingRows()])[1]
    assert with_head().tower.pools and with_head().other.tower.pools


@pytest.mark.parametrize("family", QWEN)
@pytest.mark.parametrize("numbers", ALIKE, ids=str)
def test_qwens_features_are_in_raster_order(family, numbers):
    also = [Deepstack()] if "Qwen3-VL" in family else []
    sources, values = answered(family, numbers, [Features(), Features(projected=True), *also])
    visual = adapter_of(family).model.model.visual
    for row, number in enumerate(numbers):
        image = inputs_of(family)[number]
        expected = stock_tokens(family, image)
        close(sources[row], expected)
        close(values[Features(projected=True)][row], expected)
        close(visual.merger(values[Features()][row].reshape(-1, HEADS * WIDTH)), expected)
        if also:
            _, after = entering(family, image)
            levels = [visual.deepstack_merger_list[n](after[layer]) for n, layer in enumerate((0, 2))]
            close(values[Deepstack()][row], torch.stack(levels))


def test_layers_of_windows_say_nothing_about_the_image():
    for layer in (0, 2, -2):
        with pytest.raises(LayerError, match=r"attends only to its window.*choose one of 1, 3"):
            answered("Qwen2.5-VL", [0], [ReceivedRows(layer)])


@pytest.mark.parametrize("family", (*WITHOUT_CLS, *QWEN))
def test_towers_without_cls_name_the_stand_in(family):
    with pytest.raises(UnsupportedNeed, match=r"no \[CLS\] token.*fitting\.with_fallbacks"):
        answered(family, [0], [ClsRows((0,))])
