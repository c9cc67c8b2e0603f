"""Protects the language of the captions: what is said is read back, and nothing else is understood."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.data.captions import LENGTH, VOCABULARY, Group, Meaning, decode, encode, encode_all, parse
from bench.data.scenes import COLOURS, MOST, RELATIONS, SHAPES, SIZES, Thing

COLOUR, SIZE = st.none() | st.sampled_from(tuple(COLOURS)), st.none() | st.sampled_from(tuple(SIZES))


def groups(count: st.SearchStrategy[int]) -> st.SearchStrategy[Group]:
    return st.builds(Group, count, st.sampled_from(SHAPES), COLOUR, SIZE)


RELATED = st.builds(
    lambda one, two, said: Meaning((one, two), said),
    groups(st.just(1)),
    groups(st.just(1)),
    st.sampled_from(RELATIONS),
)
LISTED = (
    st.lists(groups(st.integers(1, MOST)), max_size=MOST)
    .map(lambda listed: Meaning(tuple(listed)))
    .filter(lambda meaning: meaning.count <= MOST)
)


@given(RELATED | LISTED)
def test_every_meaning_is_read_back_from_its_caption_and_from_its_tokens(meaning: Meaning) -> None:
    assert parse(str(meaning)) == meaning
    assert decode(encode(str(meaning))) == str(meaning)


@given(st.lists(st.sampled_from(VOCABULARY[1:]), max_size=9))
def test_words_in_any_order_are_read_exactly_or_refused(words: list[str]) -> None:
    """What parses says again the very same words, so nothing is skipped or guessed."""
    caption = " ".join(words)
    try:
        again = str(parse(caption))
    except ValueError as refusal:
        again = str(refusal).removeprefix("'").partition("' is no caption: ")[0]
    assert again == caption


def test_the_examples_of_the_grammar_mean_what_they_say() -> None:
    assert parse("a large cyan square") == Meaning((Group(1, "square", "cyan", "large"),))
    assert parse("two red circles") == Meaning((Group(2, "circle", "red"),))
    assert parse("three small crosses and a square".replace("three", "two")).count == 3
    said = parse("a small red circle left of a large blue triangle")
    assert said.relation == "left of"
    assert [group.size for group in said.groups] == ["small", "large"]


def test_the_empty_caption_is_null() -> None:
    assert not encode("").any()
    assert parse("") == Meaning()
    assert VOCABULARY[0] == ""
    assert encode_all([]).shape == (0, LENGTH)


def test_the_longest_caption_fits_and_no_word_has_two_tokens() -> None:
    longest = " and ".join(["a small magenta triangle"] * 3)
    assert np.count_nonzero(encode(longest)) == 14 <= LENGTH
    assert len(set(VOCABULARY)) == len(VOCABULARY)


@pytest.mark.parametrize(
    ("caption", "sentence"),
    [
        ("a red circl", "Did you mean 'circle'"),
        ("a red", "the end stands where one shape belongs"),
        ("red circle", "'red' stands where 'a', 'two' or 'three' belongs"),
        ("a red small circle", "'small' stands where one shape belongs"),
        ("a red circles", "'circles' stands where one shape belongs"),
        ("two red circle", "'circle' stands where the plural"),
        ("a circle left a square", "'a' stands where 'of' belongs"),
        ("a circle above two squares", "a relation joins two single things"),
        ("a circle above a square and a cross", "'and' follows a relation"),
        ("two circles and two squares", "at most 3 things"),
        ("a circle a square", "stands where 'and' or the end belongs"),
        (" ".join(["a"] * 17), "at most 16 words"),
    ],
)
def test_a_bad_caption_is_refused_in_one_sentence(caption: str, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse(caption)


def test_a_number_that_is_no_token_is_refused() -> None:
    with pytest.raises(ValueError, match="26 is not a token"):
        decode([1, 26])


def test_a_meaning_holds_for_its_things_in_order_and_for_nothing_else() -> None:
    red, blue = Thing("circle", "red", "small", 8, 8), Thing("square", "blue", "large", 20, 10)
    said = parse("a red circle left of a large square")
    assert said.holds([red, blue])
    assert not said.holds([blue, red])
    assert not said.holds([red])
    assert not said.holds([red, blue, blue])
    assert not parse("a red circle above a large square").holds([red, blue])
    assert not parse("a red circle left of a small square").holds([red, blue])
