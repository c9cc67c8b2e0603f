"""Protects the data: the fixed split, the fingerprint, and refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from bench import data

DIGITS = "4b87b676566d"


def test_the_split_of_the_digits_never_changes() -> None:
    digits = data.load("digits")
    assert (len(digits.train), len(digits.test), digits.levels, digits.shape) == (1437, 360, 17, (1, 8, 8))
    assert replace(digits, captions=None).fingerprint.startswith(DIGITS)


def test_both_splits_together_are_the_original_images() -> None:
    digits = data.load("digits")
    ours = np.concatenate([digits.train, digits.test]).reshape(1797, -1)
    original = load_digits().data.astype(np.uint8)
    assert sorted(map(bytes, ours)) == sorted(map(bytes, original))


def test_the_fingerprint_sees_one_pixel_one_label_and_the_order() -> None:
    digits = data.load("digits")
    pixel = digits.test.copy()
    pixel[3, 0, 4, 4] = (pixel[3, 0, 4, 4] + 1) % 17
    label = digits.test_labels.copy()
    label[0] = (label[0] + 1) % 10
    changed = [
        replace(digits, test=pixel),
        replace(digits, test_labels=label),
        replace(digits, test=digits.test[::-1]),
        replace(digits, levels=18),
        replace(digits, captions=None),
        replace(digits, captions=replace(digits.captions, prompts={"more": digits.captions.test})),
    ]
    assert len({digits.fingerprint, *(other.fingerprint for other in changed)}) == 7


def test_captions_and_labels_of_the_digits_say_the_same() -> None:
    digits = data.load("digits")
    words = [digits.captions.text(row) for row in digits.condition("text")]
    names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    assert words == [f"the digit {names[label]}" for label in digits.condition("label")]
    assert digits.condition("text", "train").shape == (1437, 3)


def test_conditions_that_a_data_set_cannot_give_are_one_sentence() -> None:
    digits = data.load("digits")
    with pytest.raises(ValueError, match="Unknown set of prompts 'held-out'"):
        digits.condition("text", "held-out")
    with pytest.raises(ValueError, match="no labels for prompts 'held-out'"):
        digits.condition("label", "held-out")
    with pytest.raises(ValueError, match="has no captions"):
        replace(digits, captions=None).condition("text")
    with pytest.raises(ValueError, match="captions must use the words 0…2"):
        replace(digits, captions=replace(digits.captions, vocabulary=("", "a", "b")))
    with pytest.raises(ValueError, match="360 images have captions"):
        replace(digits, captions=replace(digits.captions, test=digits.captions.test[:3]))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"levels": 16}, "16 levels end below it"),
        ({"test_labels": np.zeros(3, np.int64)}, "360 images have 3 labels"),
        ({"classes": 9}, "labels must lie in 0…8"),
        ({"test": np.zeros((360, 8, 8), np.uint8)}, "uint8 \\(N, C, H, W\\)"),
        ({"test": np.zeros((360, 1, 8, 8), np.float32)}, "uint8 \\(N, C, H, W\\)"),
    ],
)
def test_data_that_does_not_fit_together_is_refused(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        replace(data.load("digits"), **change)


def test_an_unknown_name_gets_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'digits'"):
        data.load("digit")
    assert data.description("digits").startswith("1 797 handwritten digits")
