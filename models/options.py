"""Options that are named in suites and on the command line: which values they may have, how they are written.

    eta     a number of an interval        Interval(0.0, 0.0, 1.0)
    order   one of a few words or numbers  Choice(2, (1, 2, 3))

Samplers and grids declare theirs like this. Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass

from models.names import unknown


@dataclass(frozen=True)
class Choice:
    """An option with a few possible values: words or whole numbers."""

    default: Hashable
    words: tuple[Hashable, ...]

    def check(self, owner: str, name: str, value: object) -> None:
        """Refuse any other value; True is not 1 here, and 2.0 is not 2."""
        if not any(type(value) is type(word) and value == word for word in self.words):
            words = ", ".join(map(str, self.words))
            raise ValueError(f"Option {name} of {owner} is one of {words}, not {value!r}.")


@dataclass(frozen=True)
class Interval:
    """An option that is a number between two ends, both included."""

    default: float
    low: float
    high: float

    def check(self, owner: str, name: str, value: object) -> None:
        """Refuse what is no number between the ends."""
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not self.low <= value <= self.high:  # type: ignore[operator]
            ends = f"from {self.low:g} to {self.high:g}"
            raise ValueError(f"Option {name} of {owner} is a number {ends}, not {value!r}.")


Option = Choice | Interval


def check(owner: str, options: Mapping[str, object], known: Mapping[str, Option]) -> None:
    """Refuse an unknown option with the nearest name, and a value that it cannot have.

    owner  kind and name of what is configured, such as `sampler ddim`
    """
    for name, value in options.items():
        if name not in known:
            raise ValueError(unknown(f"option of {owner}", name, known))
        known[name].check(owner.split()[-1], name, value)


def changed(options: Mapping[str, object], known: Mapping[str, Option]) -> dict[str, object]:
    """The options that differ from their defaults, in the order in which they are declared."""
    return {name: options[name] for name in known if name in options and options[name] != known[name].default}


def text(value: object) -> str:
    """A value as people write it, without loss: 7 for 7.0.

    >>> text(7.0), text(0.002), text("bh2")
    ('7', '0.002', 'bh2')
    """
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def value(written: str) -> object:
    """What a text stands for: a whole number, a number, else the word itself."""
    for kind in (int, float):
        try:
            return kind(written)
        except ValueError:
            continue
    return written
