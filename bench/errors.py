"""What can go wrong, told to the user in one sentence with the remedy."""

from __future__ import annotations

from collections.abc import Iterable

from models import names


class UsageError(Exception):
    """The request cannot be carried out as it stands: one sentence, exit code 2."""


class CellFailed(Exception):
    """One cell could not be measured; the others go on and the report shows this sentence."""


def unknown(kind: str, name: str, valid: Iterable[str], hint: str = "") -> UsageError:
    """`Unknown sampler 'ddmi'. Did you mean 'ddim'? …`, as a usage error."""
    return UsageError(names.unknown(kind, name, valid, hint))
