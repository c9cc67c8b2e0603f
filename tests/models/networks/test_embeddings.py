"""Protects patches, positions and times: their order is what published weights were trained on.

Shapes: B batch, C channels, H height, W width, p patch, N tokens.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from models.networks.embeddings import (
    LabelEmbedding,
    PatchEmbedding,
    TimeEmbedding,
    VectorEmbedding,
    check_patches,
    grid_positions,
    sinusoid,
    unpatchify,
)

SMALL = st.integers(1, 4)


def _patchify(x: Tensor, p: int) -> Tensor:
    """Patch by patch, row by row, with the channel innermost: loops, no reshaping tricks."""
    patches = [
        x[:, :, i : i + p, j : j + p].permute(0, 2, 3, 1).flatten(1)
        for i in range(0, x.shape[2], p)
        for j in range(0, x.shape[3], p)
    ]
    return torch.stack(patches, 1)


@given(SMALL, SMALL, SMALL, SMALL)
def test_unpatchify_inverts_patchify(channels: int, p: int, rows: int, columns: int) -> None:
    """A swap of rows and columns, or of channel and pixel, would scramble every image."""
    x = torch.arange(2.0 * channels * rows * p * columns * p).view(2, channels, rows * p, columns * p)
    assert torch.equal(unpatchify(_patchify(x, p), channels, p, rows, columns), x)


def test_patch_embedding_is_a_linear_map_of_each_patch_in_raster_order() -> None:
    layer, x = PatchEmbedding(3, 2, 5), torch.randn(2, 3, 4, 6)
    weight = layer.proj.weight.permute(0, 2, 3, 1).flatten(1)
    wanted = _patchify(x, 2) @ weight.T + layer.proj.bias
    torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-5)


def test_positions_hold_the_column_first_and_sines_before_cosines() -> None:
    """Every entry from the formula, in a table that is not square."""
    rows, columns, dims = 3, 5, 16
    table = grid_positions(rows, columns, dims)
    for row in range(rows):
        for column in range(columns):
            frequencies = [10000 ** (-i / 4) for i in range(4)]
            wanted = [f(x * w) for x in (column, row) for f in (math.sin, math.cos) for w in frequencies]
            assert table[row * columns + column].tolist() == pytest.approx(wanted, abs=1e-6)


def test_times_are_cosines_then_sines_at_frequencies_from_one() -> None:
    t = torch.tensor([0.0, 250.0], dtype=torch.float64)
    found = sinusoid(t, 6)[1].tolist()
    angles = [250.0 * 10000 ** (-i / 3) for i in range(3)]
    assert found == pytest.approx([*map(math.cos, angles), *map(math.sin, angles)], abs=1e-12)
    assert sinusoid(t, 6)[0].tolist() == [1, 1, 1, 0, 0, 0]


def test_half_precision_times_are_told_apart() -> None:
    """In bfloat16 the angle of 999/1000 would be off by whole periods."""
    times = torch.tensor([0.5], dtype=torch.bfloat16)
    assert torch.equal(sinusoid(500.0 * times, 256), sinusoid(torch.tensor([250.0]), 256))


def test_time_embedding_scales_first_and_keeps_the_precision_of_its_weights() -> None:
    layer = TimeEmbedding(8, scale=1000.0).double()
    wanted = layer.mlp(sinusoid(torch.tensor([250.0], dtype=torch.float64), 256))
    torch.testing.assert_close(layer(torch.tensor([0.25])), wanted, atol=1e-6, rtol=1e-6)
    assert layer(torch.tensor([0.25])).dtype == torch.float64


def test_the_last_label_is_the_null() -> None:
    layer = LabelEmbedding(10, 4)
    assert layer.embedding_table.weight.shape == (11, 4)
    assert torch.equal(layer(torch.tensor([10]))[0], layer.embedding_table.weight[10])
    assert VectorEmbedding(6, 4)(torch.zeros(2, 6)).shape == (2, 4)


def test_impossible_sizes_get_one_sentence() -> None:
    with pytest.raises(ValueError, match="patches of 3x3 do not tile images of 8x9"):
        check_patches((1, 8, 9), 3)
    with pytest.raises(ValueError, match="divisible by 4: got 6"):
        grid_positions(2, 2, 6)


def test_nothing_here_needs_real_memory() -> None:
    """Options are checked by building on the meta device."""
    with torch.device("meta"):
        parts: list[nn.Module] = [PatchEmbedding(3, 2, 8), TimeEmbedding(8)]
        assert grid_positions(4, 4, 8).device.type == "meta"
    assert all(p.device.type == "meta" for part in parts for p in part.parameters())
