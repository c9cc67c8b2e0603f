"""Protects the identity of networks of one's own: other weights, another name, wherever the weights hide."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.metrics.fingerprint import fingerprint
from bench.metrics.own_features import OwnFeatures
from tests.conftest import ROOT, environment


class Holder:
    """An object with weights, and methods that use them."""

    def __init__(self, weights: Any) -> None:
        self.weights = weights

    def features(self, pixels: Tensor) -> Tensor:
        return pixels.float().mean((2, 3)) * self.weights


class Slotted:
    __slots__ = ("weights",)

    def __init__(self, weights: Any) -> None:
        self.weights = weights


@dataclass
class Nested:
    inner: Holder
    others: list[Any] = field(default_factory=list)


class Network(nn.Module):
    """A parameter, a buffer that is not stored, and a plain attribute."""

    def __init__(self, parameter: float = 1.0, buffer: float = 1.0, plain: Any = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([parameter]))
        self.register_buffer("shift", torch.tensor([buffer]), persistent=False)
        self.plain = plain

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels.float().mean((2, 3)) * self.scale + self.shift


def with_default(weights: Any) -> Callable[..., Any]:
    def features(pixels: Tensor, w: Any = weights) -> Any:
        return pixels.float().mean((2, 3)) * w

    return features


def with_keyword_default(weights: Any) -> Callable[..., Any]:
    def features(pixels: Tensor, *, w: Any = weights) -> Any:
        return pixels.float().mean((2, 3)) * w

    return features


def closed(weights: Any) -> Callable[..., Any]:
    return lambda pixels: pixels.float().mean((2, 3)) * weights


def plain(pixels: Tensor, w: Any) -> Any:
    return pixels.float().mean((2, 3)) * w


HIDING: dict[str, Callable[[Any], Any]] = {
    "bound method": lambda w: Holder(w).features,
    "positional argument of a partial": lambda w: functools.partial(plain, w),
    "keyword of a partial": lambda w: functools.partial(plain, w=w),
    "object in an object": lambda w: Nested(Holder(w)),
    "list in an object": lambda w: Nested(Holder(1), [w]),
    "list": lambda w: closed([w]),
    "dictionary": lambda w: closed({"a": {"b": w}}),
    "tuple": lambda w: closed((1, (w,))),
    "default argument": with_default,
    "keyword default": with_keyword_default,
    "closure": closed,
    "function within a closure": lambda w: closed(closed(w)),
    "slots": Slotted,
    "cached function": lambda w: functools.lru_cache(with_default(w)),
    "plain attribute of a module": lambda w: Network(plain=[w]),
    "module within a module": lambda w: nn.Sequential(nn.Flatten(), Network(plain=w)),
    "attribute of a function": lambda w: _attributed(w),
}


def _attributed(weights: Any) -> Callable[..., Any]:
    def features(pixels: Tensor) -> Tensor:
        return pixels.float().mean((2, 3))

    features.weights = weights  # type: ignore[attr-defined]
    return features


@pytest.mark.parametrize("hidden", HIDING)
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5])),
        (np.array([1, 2]), np.array([1, 3])),
        (1.0, 2.0),
        (torch.ones(3), torch.ones(3, dtype=torch.float64)),
        (torch.ones(2, 3), torch.ones(3, 2)),
    ],
    ids=["tensors", "arrays", "numbers", "dtypes", "shapes"],
)
def test_other_weights_have_another_fingerprint(hidden: str, one: Any, other: Any) -> None:
    make = HIDING[hidden]
    assert fingerprint(make(one)) != fingerprint(make(other))
    again = one.clone() if isinstance(one, Tensor) else one.copy() if isinstance(one, np.ndarray) else one
    assert fingerprint(make(one)) == fingerprint(make(again))


def test_parameters_and_buffers_count_whether_they_are_stored_or_not() -> None:
    base = fingerprint(Network())
    assert base == fingerprint(Network())
    assert (
        len({base, fingerprint(Network(2.0)), fingerprint(Network(1.0, 2.0)), fingerprint(Network(plain=2))})
        == 4
    )
    assert fingerprint(Network().train()) == fingerprint(Network().eval())


def test_the_same_in_another_process() -> None:
    """Neither addresses nor the seed of Python's hashes show."""
    script = (
        "from tests.bench.metrics.test_fingerprint import *\n"
        "w = {'b': torch.arange(3.0), 'a': {'x', 'y', 'z'}}\n"
        "print(*[fingerprint(make(w)) for make in HIDING.values()])"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", script],
            cwd=ROOT,
            env={**environment(), "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert len(next(iter(found)).split()) == len(HIDING)


def test_what_is_shared_and_what_is_copied_read_the_same() -> None:
    """A model that was loaded shares less than one that was built."""
    w = torch.ones(2)
    assert fingerprint([w, w]) == fingerprint([w, w.clone()])


def test_cycles_end() -> None:
    one, other = Holder(torch.ones(2)), Holder(torch.zeros(2))
    one.me, other.me = one, other  # type: ignore[attr-defined]
    assert fingerprint(one) != fingerprint(other)
    again = Holder(torch.ones(2))
    again.me = again  # type: ignore[attr-defined]
    assert fingerprint(one) == fingerprint(again)


def test_lists_of_parts_do_not_run_together() -> None:
    assert fingerprint(["ab", "c"]) != fingerprint(["a", "bc"])
    assert fingerprint([1, [2]]) != fingerprint([[1], 2])
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint([1]) != fingerprint((1,)) != fingerprint([True])


def test_what_cannot_be_read_is_refused_with_the_remedy() -> None:
    """An open file or a generator holds what nobody can hash; silence would give equal names."""
    with pytest.raises(ValueError, match=r"cannot be read.*hold them as tensors, or pass weights_sha256"):
        fingerprint(Holder(i for i in range(3)))
    with pytest.raises(ValueError, match="make it dense first"):
        fingerprint(closed(torch.eye(3).to_sparse()))
    stuck = Holder(i for i in range(3)).features
    with pytest.raises(ValueError, match="weights_sha256"):
        OwnFeatures(stuck)
    assert OwnFeatures(stuck, "theirs", weights_sha256="0123456789abcdef").identity == "theirs 0123456789ab"


def test_python_objects_without_a_dictionary_are_read_as_they_are_pickled() -> None:
    one, other = np.random.default_rng(0), np.random.default_rng(1)
    assert fingerprint(closed(one)) != fingerprint(closed(other))
    assert fingerprint(closed(one)) == fingerprint(closed(np.random.default_rng(0)))
