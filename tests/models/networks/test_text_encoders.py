"""Protects text encoders: padding changes nothing, the null is defined, SD3's joining of three encoders.

Shapes: B captions, L tokens.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from models.networks.text_encoders import PretrainedTextEncoders, SmallTextEncoder


def _encoder(length: int = 8) -> SmallTextEncoder:
    torch.manual_seed(0)
    encoder = SmallTextEncoder(12, length, width=16, depth=2).double().eval()
    for parameter in encoder.parameters():
        nn.init.normal_(parameter, std=0.4)
    return encoder


@torch.no_grad()
def test_padding_does_not_change_results() -> None:
    """The same caption with 0, 1 or 5 places of padding: same words, same pooled vector."""
    encoder, words = _encoder(), torch.tensor([[3, 7, 2], [5, 5, 1]])
    context, pooled = encoder(words)
    for extra in (1, 5):
        padded, found = encoder(torch.cat([words, torch.zeros(2, extra, dtype=torch.int64)], 1))
        torch.testing.assert_close(padded[:, :3], context, atol=1e-12, rtol=0)
        torch.testing.assert_close(found, pooled, atol=1e-12, rtol=0)
        assert torch.equal(padded[:, 3:], encoder.padding.expand(2, extra, 16))


@torch.no_grad()
def test_captions_of_a_batch_do_not_see_each_other() -> None:
    encoder, tokens = _encoder(), torch.tensor([[3, 7, 2, 0], [5, 0, 0, 0], [0, 0, 0, 0]])
    together = encoder(tokens)
    for row in range(3):
        for both, alone in zip(together, encoder(tokens[row : row + 1]), strict=True):
            torch.testing.assert_close(both[row], alone[0], atol=1e-12, rtol=0)


@torch.no_grad()
def test_order_and_every_word_matter() -> None:
    """`red above blue` is not `blue above red`, and the first word reaches the pooled end."""
    encoder = _encoder()
    captions = torch.tensor([[3, 7, 2, 0], [2, 7, 3, 0], [4, 7, 2, 0], [3, 7, 2, 2], [3, 7, 0, 2]])
    pooled = encoder(captions)[1]
    distances = torch.cdist(pooled, pooled) + torch.eye(5)
    assert float(distances.min()) > 1e-3


def test_the_null_caption_is_finite_learned_and_the_same_at_any_length() -> None:
    """No key is masked away from the start token, so that nothing is 0/0, and training moves it."""
    encoder = _encoder()
    null, short = encoder(torch.zeros(2, 8, dtype=torch.int64)), encoder(torch.zeros(2, 3, dtype=torch.int64))
    assert all(bool(part.isfinite().all()) for part in null)
    torch.testing.assert_close(null[1], short[1], atol=1e-12, rtol=0)
    (null[1].sum() + null[0].sum()).backward()
    assert bool(encoder.start.grad.any())  # type: ignore[union-attr]
    assert bool(encoder.padding.grad.any())  # type: ignore[union-attr]


def test_every_parameter_is_reached_by_the_gradient() -> None:
    encoder = _encoder(4)
    weights = torch.randn(3, 4, 16).double()
    context, pooled = encoder(torch.tensor([[3, 7, 2, 1], [5, 0, 0, 0], [0, 0, 0, 0]]))
    ((context * weights).sum() + (pooled * weights[:, 0]).sum()).backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in encoder.parameters())


def test_too_long_a_caption_gets_one_sentence() -> None:
    with pytest.raises(ValueError, match="up to 8 tokens here: got 9"):
        _encoder()(torch.zeros(1, 9, dtype=torch.int64))


class _Clip(nn.Module):
    """Stands in for CLIP: hidden state i is i + the token, the pooled vector the first token."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.weight, self.layers = nn.Parameter(torch.ones(width)), layers

    def forward(self, input_ids: Tensor, output_hidden_states: bool) -> SimpleNamespace:
        assert output_hidden_states
        states = tuple((input_ids + i)[:, :, None] * self.weight for i in range(self.layers + 1))
        return SimpleNamespace(hidden_states=states, text_embeds=input_ids[:, :1] * self.weight)


class _T5(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, input_ids: Tensor) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=input_ids[:, :, None] * self.weight)


def test_three_encoders_are_joined_as_in_sd3() -> None:
    """CLIP's last state but one, L before G, zeros to the width, T5 behind; pooled L before G."""
    encoders = PretrainedTextEncoders(_Clip(2, 5), _Clip(3, 9), _T5(8), width=8)
    left, right, t5 = torch.tensor([[10, 20]]), torch.tensor([[30, 40]]), torch.tensor([[2, 4, 6]])
    context, pooled = encoders(left, right, t5)
    assert context.tolist() == [
        [
            [14, 14, 38, 38, 38, 0, 0, 0],
            [24, 24, 48, 48, 48, 0, 0, 0],
            *([value] * 8 for value in (1, 2, 3)),
        ]
    ]
    assert pooled.tolist() == [[10, 10, 30, 30, 30]]
    assert not any(p.requires_grad for p in encoders.parameters())


def test_without_t5_its_tokens_are_zeros() -> None:
    context, _ = PretrainedTextEncoders(_Clip(2, 5), _Clip(3, 9), width=8)(*torch.ones(2, 1, 4).long())
    assert context.shape == (1, 8, 8)
    assert not bool(context[:, 4:].any())


def test_captions_go_through_the_tokenisers_in_order() -> None:
    tokenisers = [lambda captions, n=n: torch.full((len(captions), 2), n) for n in (1, 2, 4)]
    encoders = PretrainedTextEncoders(_Clip(2, 5), _Clip(3, 9), _T5(8), tokenisers, width=8)
    context, pooled = encoders.encode(["a red square", ""])
    assert pooled.tolist() == [[1, 1, 2, 2, 2]] * 2
    assert context[0, 2].tolist() == [2] * 8


def test_bad_requests_get_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = torch.ones(1, 2, dtype=torch.int64)
    with pytest.raises(ValueError, match="CLIP encoders give 5 channels, more than 4"):
        PretrainedTextEncoders(_Clip(2, 5), _Clip(3, 9), width=4)(tokens, tokens)
    with pytest.raises(ValueError, match="T5 gives 6 channels and the context has 8"):
        PretrainedTextEncoders(_Clip(2, 5), _Clip(3, 9), _T5(6), width=8)(tokens, tokens, tokens)
    encoders = PretrainedTextEncoders(_Clip(2, 5), _Clip(3, 9), _T5(8), width=8)
    with pytest.raises(ValueError, match="T5 needs token numbers of its own"):
        encoders(tokens, tokens)
    with pytest.raises(ValueError, match="no tokenisers"):
        encoders.encode(["a"])
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install noisebench\[diffusers\]"):
        PretrainedTextEncoders.from_pretrained("somewhere")


def test_the_real_library_fits() -> None:
    """Tiny random CLIP and T5 of transformers, as their classes call their outputs today."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    clips = [
        transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(
                vocab_size=50,
                hidden_size=width,
                intermediate_size=16,
                projection_dim=width,
                num_hidden_layers=3,
                num_attention_heads=2,
                max_position_embeddings=7,
                eos_token_id=49,
            )
        )
        for width in (8, 12)
    ]
    t5 = transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=50, d_model=24, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
    )
    encoders = PretrainedTextEncoders(*clips, t5, width=24)
    tokens = torch.tensor([[1, 5, 6, 49, 49, 49, 49]])
    context, pooled = encoders(tokens, tokens, tokens)
    assert context.shape == (1, 14, 24)
    assert pooled.shape == (1, 20)
    wanted = clips[1](input_ids=tokens, output_hidden_states=True)
    torch.testing.assert_close(context[:, :7, 8:20], wanted.hidden_states[2])
    torch.testing.assert_close(pooled[:, 8:], wanted.text_embeds)
