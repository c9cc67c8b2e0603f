"""Attention's Triton kernels against float64: outputs and all gradients.

The rule is FlashAttention's (Dao-AILab, tests of version 3): no further from the truth than twice what
PyTorch's own attention in that dtype is, and an allowance for rounding the result.

Shapes: B batch, H heads, L queries, S keys, D size of a head.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from kernels import autotune
from kernels.attention import attention, reference_attention
from kernels.configurations import Tiles, tiles_for, using_tiles
from kernels.jit import attention as launching

SQUARE = Tiles(64, 64, 4, 2)
"""What the interpreter is fastest with; the table's own are tested once for each dtype."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
NAMES = ("o", "dq", "dk", "dv")


@pytest.fixture(autouse=True)
def square_tiles() -> Iterator[None]:
    with using_tiles(hopper=SQUARE, forward=SQUARE, keys=SQUARE, queries=SQUARE):
        yield


@pytest.fixture
def by_pointers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward kernel of every other architecture, where there is no copy engine."""
    monkeypatch.setattr(launching, "suits_descriptors", lambda *_: False)


def results(inputs: Sequence[Tensor], seed_do: Tensor, run) -> list[Tensor]:
    """o, dq, dk, dv."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    o = run(*leaves)
    return [o.detach(), *torch.autograd.grad(o, leaves, seed_do.to(o.dtype))]


def errors(
    qkv: Sequence[Tensor], do: Tensor, causal: bool = False, lengths: Tensor | None = None
) -> dict[str, tuple[float, float, float]]:
    """Largest error of ours and of PyTorch's against float64, and the allowance, for each result."""
    masks = {"causal": causal, "key_lengths_B": lengths}
    ours = results(qkv, do, lambda *x: attention(*x, **masks, backend="triton"))
    theirs = results(qkv, do, lambda *x: attention(*x, **masks, backend="math"))
    truth = results([x.double() for x in qkv], do.double(), lambda *x: reference_attention(*x, **masks))
    table = {}
    for name, a, b, exact in zip(NAMES, ours, theirs, truth, strict=True):
        unit = torch.finfo(a.dtype).eps * exact.abs().max().item()
        table[name] = ((a - exact).abs().max().item(), (b - exact).abs().max().item(), unit)
    return table


def check(table: dict[str, tuple[float, float, float]]) -> None:
    for name, (ours, theirs, unit) in table.items():
        assert ours <= 2 * theirs + unit + 1e-5, f"{name}: {ours:.2e} from the truth, PyTorch {theirs:.2e}"


def draw(shape_q: tuple[int, ...], keys: int, dtype: torch.dtype, generator: torch.Generator) -> list[Tensor]:
    """q, k, v and the gradient of the output, N(0, 1)."""
    B, H, _, D = shape_q
    shapes = (shape_q, (B, H, keys, D), (B, H, keys, D), shape_q)
    return [torch.randn(shape, generator=generator).to(dtype) for shape in shapes]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("D", [32, 64, 72, 80, 88, 96, 128])
def test_every_head_size_and_dtype(D: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    *qkv, do = draw((1, 1, 77, D), 77, dtype, generator)
    table = errors(qkv, do)
    print(f"D {D} {dtype}", {n: f"{o / (t + 1e-30):.2f}" for n, (o, t, _) in table.items()})
    check(table)


@pytest.mark.usefixtures("by_pointers")
@pytest.mark.parametrize("D", [32, 64, 72, 80, 88, 96, 128])
def test_every_head_size_by_pointers(D: int, generator: torch.Generator) -> None:
    """What other architectures than Hopper run on half precision."""
    *qkv, do = draw((1, 1, 77, D), 77, torch.bfloat16, generator)
    check(errors(qkv, do))


@pytest.mark.parametrize("specialised", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_tiles_of_the_table(dtype: torch.dtype, specialised: bool, generator: torch.Generator) -> None:
    """As they are launched on Hopper; what specialised warps compute is the same."""
    *qkv, do = draw((1, 1, 140, 72), 140, dtype, generator)
    special = {"hopper": tiles_for("special", 72, torch.float16, 90)} if specialised else {}
    with using_tiles(**dict.fromkeys(("hopper", "forward", "keys", "queries")) | special):
        check(errors(qkv, do))


@pytest.mark.parametrize("way", ["descriptors", "pointers"])
@pytest.mark.parametrize(
    ("L", "S"), [(1, 1), (127, 127), (128, 128), (129, 129), (1, 77), (77, 1), (130, 63)]
)
def test_every_length(
    L: int, S: int, way: str, generator: torch.Generator, request: pytest.FixtureRequest
) -> None:
    """Tiles that are full, ragged, or hold one row; more tiles than programs."""
    if way == "pointers":
        request.getfixturevalue("by_pointers")
    *qkv, do = draw((1, 3, L, 64), S, torch.float16, generator)
    check(errors(qkv, do))


def test_what_the_copy_engine_cannot_address_goes_by_pointers(generator: torch.Generator) -> None:
    """Rows that do not begin at multiples of 16 bytes, keys that are expanded: the same result."""
    q, k, v, _ = draw((1, 2, 70, 64), 70, torch.float16, generator)
    expected = attention(q, k, v, backend="triton")
    wide = torch.zeros(1, 2, 70, 67, dtype=torch.float16)
    shifted = wide[..., 3:]
    shifted.copy_(k)
    assert launching.suits_descriptors(q, k, v)
    assert not launching.suits_descriptors(q, shifted, v)
    assert not launching.suits_descriptors(q, k[:, :1].expand(1, 2, 70, 64), v)
    torch.testing.assert_close(attention(q, shifted, v, backend="triton"), expected, atol=2e-3, rtol=2e-3)


def test_no_keys_and_no_queries() -> None:
    """Zeros, and gradients of zero, where there is nothing to attend to."""
    q = torch.randn(1, 2, 5, 64, requires_grad=True)
    none = torch.zeros(1, 2, 0, 64, requires_grad=True)
    out = attention(q, none, none, backend="triton")
    assert not out.any()
    assert not torch.autograd.grad(out.sum(), q)[0].any()
    assert attention(none, q, q, backend="triton").shape == (1, 2, 0, 64)


@pytest.mark.parametrize("D", [8, 24, 40, 120])
def test_sizes_without_tiles_of_their_own(D: int, generator: torch.Generator) -> None:
    *qkv, do = draw((1, 1, 33, D), 33, torch.float32, generator)
    check(errors(qkv, do))


@pytest.mark.parametrize("N", [1, 77, 128, 200])
def test_causal(N: int, generator: torch.Generator) -> None:
    *qkv, do = draw((1, 2, N, 72), N, torch.float32, generator)
    check(errors(qkv, do, causal=True))


@pytest.mark.parametrize("causal", [False, True])
def test_key_lengths(causal: bool, generator: torch.Generator) -> None:
    """Samples of no key, some, a whole tile and all; what is not seen has no gradient, not even NaN."""
    *qkv, do = draw((4, 1, 100, 64), 100, torch.float32, generator)
    lengths = torch.tensor([0, 37, 64, 100])
    qkv[1][1, :, 37:], qkv[2][1, :, 37:] = float("nan"), float("nan")
    ours = results(qkv, do, lambda *x: attention(*x, causal=causal, key_lengths_B=lengths, backend="triton"))
    clean = [x.nan_to_num(0.0) for x in qkv]
    check(errors(clean, do, causal, lengths))
    for got, expected in zip(
        ours,
        results(clean, do, lambda *x: attention(*x, causal=causal, key_lengths_B=lengths, backend="triton")),
        strict=True,
    ):
        assert torch.equal(got, expected)
    assert not ours[0][0].any()
    assert not ours[2][1, :, 37:].any()
    assert not ours[3][1, :, 37:].any()


def test_a_packed_projection_is_read_in_place(generator: torch.Generator, monkeypatch) -> None:
    """q, k and v as slices of (B, N, 3, H, D), and a gradient that is expanded: the same bits as copies."""
    packed = torch.randn(2, 50, 3, 3, 72, generator=generator).half()
    views = packed.permute(2, 0, 3, 1, 4).unbind(0)
    do = torch.ones(1, dtype=torch.float16).expand(2, 3, 50, 72)
    copies = [x.contiguous() for x in views]
    run = lambda *x: attention(*x, backend="triton")  # noqa: E731
    expected = results(copies, torch.ones(2, 3, 50, 72).half(), run)
    monkeypatch.setattr(Tensor, "contiguous", lambda *_: pytest.fail("a strided input was copied"))
    got = results(views, do.clone(), run)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_twice_the_same_bits(generator: torch.Generator) -> None:
    *qkv, do = draw((1, 2, 130, 64), 130, torch.bfloat16, generator)
    run = lambda *x: attention(*x, backend="triton")  # noqa: E731
    assert all(torch.equal(a, b) for a, b in zip(results(qkv, do, run), results(qkv, do, run), strict=True))


def test_large_scores_do_not_overflow(generator: torch.Generator) -> None:
    """Scores of ±10⁴: softmax is one-hot, and finite all the same."""
    *qkv, do = draw((1, 1, 65, 64), 65, torch.float32, generator)
    qkv[0] *= 3e3
    table = errors(qkv, do)
    assert all(ours < 1e30 for ours, _, _ in table.values())
    assert table["o"][0] < 1e-2


def test_tuning_keeps_the_fastest_that_agrees(
    generator: torch.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Measured once, kept on disk, read by the next process; a wrong result is never the fastest."""
    monkeypatch.setenv("NOISEBENCH_AUTOTUNE", "1")
    monkeypatch.setenv("NOISEBENCH_CACHE", str(tmp_path))
    q, k, v, _ = draw((1, 1, 16, 32), 16, torch.float32, generator)
    expected = reference_attention(q, k, v)
    with using_tiles(forward=None):
        torch.testing.assert_close(attention(q, k, v, backend="triton"), expected)
        kept = json.loads((tmp_path / "attention_tiles.json").read_text())
        assert [key.split()[:3] for key in kept] == [["forward", "32", "torch.float32"]]
        key = next(iter(kept))
        autotune._known.cache_clear()
        (tmp_path / "attention_tiles.json").write_text(json.dumps({key: {"tiles": vars(SQUARE)}}))
        assert autotune.best("forward", q, 16, lambda _: pytest.fail("measured again")) == SQUARE
    autotune._known.cache_clear()


def test_tuning_takes_the_fastest_right_one() -> None:
    """Of one slow, one fast and wrong, and one fast and right, the last."""
    slow, wrong, right = Tiles(64, 64, 4, 2), Tiles(64, 64, 4, 3), Tiles(64, 64, 8, 2)

    def run(tiles: Tiles) -> Tensor:
        if tiles == slow:
            time.sleep(0.05)
        return torch.full((4,), float("nan") if tiles == wrong else 1.0)

    assert autotune.fastest(slow, [wrong, right], run) == right
