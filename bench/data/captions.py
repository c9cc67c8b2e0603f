"""The language of the captions: words, grammar, tokens, and what a caption asks for.

    caption  = "" | thing relation thing | group {"and" group}        at most three things
    group    = thing | ("two" | "three") [size] [colour] shapes
    thing    = "a" [size] [colour] shape
    relation = "left of" | "right of" | "above" | "below"

The empty caption asks for nothing: it is the null caption of classifier-free guidance, all zeros in tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from bench.data.scenes import COLOURS, MOST, RELATIONS, SHAPES, SIZES, Thing, relation
from models.names import unknown

LENGTH = 16
"""Tokens of a caption; the longest has 14 words."""
COUNTS = {"a": 1, "two": 2, "three": 3}
PLURALS = {shape: shape + ("es" if shape.endswith("s") else "s") for shape in SHAPES}
VOCABULARY: tuple[str, ...] = (
    "",
    *COUNTS,
    *SIZES,
    *COLOURS,
    *SHAPES,
    *PLURALS.values(),
    *("left", "right", "above", "below", "of", "and"),
)
"""Token 0 is padding."""
_TOKENS = {word: token for token, word in enumerate(VOCABULARY)}
_SINGULAR = {plural: shape for shape, plural in PLURALS.items()}


@dataclass(frozen=True)
class Group:
    """`count` things that share what is said of them; None is not said."""

    count: int
    shape: str
    colour: str | None = None
    size: str | None = None

    def fits(self, thing: Thing) -> bool:
        """Whether a thing is all that is said of this group."""
        return (
            thing.shape == self.shape
            and self.colour in (None, thing.colour)
            and self.size in (None, thing.size)
        )

    def __str__(self) -> str:
        article = next(word for word, count in COUNTS.items() if count == self.count)
        noun = self.shape if self.count == 1 else PLURALS[self.shape]
        return " ".join(word for word in (article, self.size, self.colour, noun) if word)


@dataclass(frozen=True)
class Meaning:
    """What a caption asks for; a relation says where the first of two things lies from the second."""

    groups: tuple[Group, ...] = ()
    relation: str | None = None

    @property
    def count(self) -> int:
        """Things asked for."""
        return sum(group.count for group in self.groups)

    def wanted(self) -> tuple[Group, ...]:
        """One entry a thing, in the order of the caption."""
        return tuple(group for group in self.groups for _ in range(group.count))

    def holds(self, things: Sequence[Thing]) -> bool:
        """Whether these things, in the order of the caption, are all that is asked for and nothing more."""
        if len(things) != self.count:
            return False
        fits = all(group.fits(thing) for group, thing in zip(self.wanted(), things, strict=True))
        return fits and self.relation in (None, *_relation(things))

    def __str__(self) -> str:
        return f" {self.relation or 'and'} ".join(str(group) for group in self.groups)


def _relation(things: Sequence[Thing]) -> tuple[str, ...]:
    """How the first of two things lies from the second."""
    if len(things) != 2:
        return ()
    first, second = things
    return (relation(first.x - second.x, first.y - second.y),)


def encode(caption: str) -> np.ndarray:
    """Tokens (L,) int64 of a caption, padded with zeros; ValueError for an unknown word or too many."""
    words = caption.split()
    for word in words:
        if word not in _TOKENS:
            raise ValueError(unknown("word", word, VOCABULARY[1:]))
    if len(words) > LENGTH:
        raise ValueError(f"A caption has at most {LENGTH} words, and '{caption}' has {len(words)}.")
    tokens = np.zeros(LENGTH, np.int64)
    tokens[: len(words)] = [_TOKENS[word] for word in words]
    return tokens


def encode_all(captions: Iterable[str]) -> np.ndarray:
    """Tokens (N, L) of N captions."""
    rows = [encode(caption) for caption in captions]
    return np.stack(rows) if rows else np.zeros((0, LENGTH), np.int64)


def decode(tokens: Iterable[int]) -> str:
    """The caption of tokens (L,); padding says nothing."""
    found = [int(token) for token in tokens]
    for token in found:
        if not 0 <= token < len(VOCABULARY):
            raise ValueError(f"{token} is not a token: they lie in 0…{len(VOCABULARY) - 1}.")
    return " ".join(VOCABULARY[token] for token in found if token)


def parse(caption: str) -> Meaning:
    """What a caption asks for; ValueError, one sentence, for words or an order the language lacks."""
    encode(caption)
    words = caption.split()
    if not words:
        return Meaning()
    parser = _Parser(caption, words)
    groups, said = [parser.group()], parser.relation()
    if said is not None:
        groups.append(parser.group())
        parser.stop()
        if any(group.count > 1 for group in groups):
            raise parser.error("a relation joins two single things")
    while parser.words:
        parser.take(("and",), "'and' or the end")
        groups.append(parser.group())
    meaning = Meaning(tuple(groups), said)
    if meaning.count > MOST:
        raise parser.error(f"a scene has at most {MOST} things")
    return meaning


class _Parser:
    """Reads a caption from left to right; one word of look-ahead."""

    def __init__(self, caption: str, words: list[str]) -> None:
        self.caption, self.words = caption, list(words)

    def error(self, reason: str) -> ValueError:
        return ValueError(f"'{self.caption}' is no caption: {reason}.")

    def take(self, valid: Iterable[str], what: str) -> str:
        """The next word, which must be one of `valid`."""
        if not self.words or self.words[0] not in valid:
            found = f"'{self.words[0]}'" if self.words else "the end"
            raise self.error(f"{found} stands where {what} belongs")
        return self.words.pop(0)

    def optional(self, valid: Iterable[str]) -> str | None:
        return self.words.pop(0) if self.words and self.words[0] in valid else None

    def group(self) -> Group:
        count = COUNTS[self.take(COUNTS, "'a', 'two' or 'three'")]
        size, colour = self.optional(SIZES), self.optional(COLOURS)
        if count == 1:
            return Group(count, self.take(SHAPES, "one shape"), colour, size)
        return Group(count, _SINGULAR[self.take(_SINGULAR, "the plural of a shape")], colour, size)

    def relation(self) -> str | None:
        first = self.optional({name.split()[0] for name in RELATIONS})
        if first in ("left", "right"):
            self.take(("of",), "'of'")
            return f"{first} of"
        return first

    def stop(self) -> None:
        if self.words:
            raise self.error(f"'{self.words[0]}' follows a relation, which ends a caption")
