"""The sentence for a name that does not exist, used wherever something is chosen by name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def shown(value: object, longest: int = 80) -> str:
    """A value on one line, its middle left out where it is long.

    >>> shown("two\\nlines"), shown(0.5), shown("x" * 100, 9)
    ('two lines', '0.5', 'xxxx…xxxx')
    """
    text = " ".join("".join(letter if letter.isprintable() else " " for letter in str(value)).split())
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]}…{text[-half:]}"


def unknown(kind: str, name: object, valid: Iterable[str], hint: str = "") -> str:
    """What to say of an unknown name: the nearest valid one, or all of them where none is near.

    >>> unknown("sampler", "ddmi", ["ddim", "heun"])
    "Unknown sampler 'ddmi'. Did you mean 'ddim'?"
    """
    choices = sorted(valid)
    name = shown(name)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    if near:
        remedy = f"Did you mean '{near[0]}'?"
    else:
        remedy = f"Valid: {', '.join(choices)}." if choices else "There is none, so leave it out."
    return " ".join(filter(None, [f"Unknown {kind} '{name}'.", remedy, hint]))
