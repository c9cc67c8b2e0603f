"""Protects options: which values are taken, what is said of the others, how they are written."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models import options
from models.options import Choice, Interval

DDIM = {"eta": Interval(0.0, 0.0, 1.0)}
DDPM = {"variance": Choice("small", ("small", "large", "learned"))}
UNIPC = {"order": Choice(2, (1, 2, 3)), "variant": Choice("bh2", ("bh1", "bh2"))}


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 1, 1.0])
def test_an_interval_takes_its_ends_and_what_lies_between(value: float) -> None:
    options.check("sampler ddim", {"eta": value}, DDIM)


@pytest.mark.parametrize(("order", "variant"), [(1, "bh1"), (2, "bh2"), (3, "bh1")])
def test_a_choice_takes_words_and_whole_numbers(order: int, variant: str) -> None:
    options.check("sampler unipc", {"order": order, "variant": variant}, UNIPC)


@pytest.mark.parametrize(
    ("owner", "known", "given_options", "sentence"),
    [
        ("sampler ddim", DDIM, {"eta": 2.0}, "Option eta of ddim is a number from 0 to 1, not 2.0."),
        ("sampler ddim", DDIM, {"eta": "1"}, "Option eta of ddim is a number from 0 to 1, not '1'."),
        ("sampler ddim", DDIM, {"eta": True}, "Option eta of ddim is a number from 0 to 1, not True."),
        ("sampler ddim", DDIM, {"eta": math.nan}, "Option eta of ddim is a number from 0 to 1, not nan."),
        ("sampler ddim", DDIM, {"eta": None}, "Option eta of ddim is a number from 0 to 1, not None."),
        (
            "sampler ddpm",
            DDPM,
            {"variance": "middle"},
            "Option variance of ddpm is one of small, large, learned, not 'middle'.",
        ),
        ("sampler unipc", UNIPC, {"order": 4}, "Option order of unipc is one of 1, 2, 3, not 4."),
        ("sampler unipc", UNIPC, {"order": True}, "Option order of unipc is one of 1, 2, 3, not True."),
        ("sampler unipc", UNIPC, {"order": 2.0}, "Option order of unipc is one of 1, 2, 3, not 2.0."),
        ("sampler unipc", UNIPC, {"order": [1]}, "Option order of unipc is one of 1, 2, 3, not [1]."),
        ("sampler ddim", DDIM, {"etta": 1.0}, "Unknown option of sampler ddim 'etta'. Did you mean 'eta'?"),
        (
            "sampler euler",
            {},
            {"eta": 1.0},
            "Unknown option of sampler euler 'eta'. There is none, so leave it out.",
        ),
    ],
)
def test_what_is_refused_gets_one_sentence(
    owner: str, known: dict[str, options.Option], given_options: dict[str, object], sentence: str
) -> None:
    with pytest.raises(ValueError) as refusal:
        options.check(owner, given_options, known)
    assert str(refusal.value) == sentence


def test_only_what_differs_from_its_default_is_changed_in_the_declared_order() -> None:
    assert options.changed({"variant": "bh1", "order": 3}, UNIPC) == {"order": 3, "variant": "bh1"}
    assert list(options.changed({"variant": "bh1", "order": 3}, UNIPC)) == ["order", "variant"]
    assert options.changed({"order": 2, "variant": "bh2"}, UNIPC) == {}
    assert options.changed({"eta": 0}, DDIM) == {}


@pytest.mark.parametrize(
    ("value", "text"), [(7.0, "7"), (7, "7"), (0.002, "0.002"), (1e-5, "1e-05"), ("bh1", "bh1")]
)
def test_values_are_written_as_people_write_them(value: object, text: str) -> None:
    assert options.text(value) == text
    assert options.value(text) == value


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_no_number_loses_digits_in_writing(number: float) -> None:
    """A content key is made of the text: two numbers must not share one."""
    assert options.value(options.text(number)) == number
