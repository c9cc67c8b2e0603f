"""What can go wrong, told to the user in one sentence with the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """The request cannot be carried out as it stands: one sentence, exit code 2."""


class CellFailed(Exception):
    """One cell could not be measured; the others go on and the report shows this sentence."""


def unknown(kind: str, name: str, valid: Iterable[str], hint: str = "") -> UsageError:
    """`Unknown sampler 'ddmi'. Did you mean 'ddim'? …`, naming all valid ones when none is near."""
    choices = sorted(valid)
    near = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
    guess = f"Did you mean '{near[0]}'?" if near else f"Valid: {', '.join(choices) or 'none'}."
    return UsageError(" ".join(filter(None, [f"Unknown {kind} '{name}'.", guess, hint])))
