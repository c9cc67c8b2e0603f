"""From the text of a suite to plain values: whatever the bytes are, a mapping or one sentence.

YAML lets a node stand in many places, in itself too, so that a small file may stand for endless ones; and it
knows sets, dates and bytes. A suite is a tree of mappings, lists, texts, numbers and truths, of a size that a
person may write.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from bench.errors import UsageError, unknown
from models.names import shown

LARGEST = 2**20
"""Bytes of a suite file."""
NODES = 20_000
"""Values in a suite, each counted wherever it stands."""
DEPTH = 20
"""Mappings and lists within one another."""
LONGEST = 2_000
"""Characters of a text in a suite."""

Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def builtin_names() -> list[str]:
    """Suites that come with the package."""
    folder = resources.files("bench") / "suites"
    return sorted(item.name[: -len(".yaml")] for item in folder.iterdir() if item.name.endswith(".yaml"))


def expanded(source: str, seen: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping at `source`, over those that it extends."""
    data, where = _read(source)
    base = data.pop("extends", None)
    if base is None:
        return data
    if not isinstance(base, str):
        raise UsageError(f"{where}: extends is the name or file of a suite, not {shown(base)}.")
    if base in (*seen, source):
        raise UsageError(f"{where} extends itself through {base}: remove one of the `extends:` lines.")
    return merged(expanded(base, (*seen, source)), data)


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`change` over `base`, mappings merged key by key, anything else replaced."""
    found = dict(base)
    for key, value in change.items():
        old = found.get(key)
        found[key] = merged(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return found


def _read(source: str) -> tuple[dict[str, Any], str]:
    """The mapping in a built-in suite or file, and where it was found."""
    if source in builtin_names():
        data = (resources.files("bench") / "suites" / f"{source}.yaml").read_bytes()
        return parsed(data, f"suite {source}"), f"suite {source}"
    if not source.endswith((".yaml", ".yml")):
        raise unknown("suite", source, builtin_names(), "A suite of your own is a path that ends in .yaml.")
    try:
        path = Path(source)
        if not path.is_file():
            raise UsageError(f"There is no suite file {source}: give the path of a YAML file that exists.")
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"The suite file {source!r} cannot be read: {reason}.") from None
    return parsed(data, source), source


def parsed(data: bytes, where: str) -> dict[str, Any]:
    """The mapping in the bytes of a YAML file; UsageError for whatever else they are."""
    found = parsed_value(data, where)
    if not isinstance(found, dict):
        raise UsageError(f"{where} must be a mapping of keys, such as `dataset: digits`.")
    return found


def parsed_value(data: bytes, where: str) -> Any:
    """The same of any value, as the command line takes one."""
    if len(data) > LARGEST:
        raise UsageError(f"{where} has more than {LARGEST} bytes: a suite is a short text.")
    try:
        found = yaml.load(data.decode(), Loader)
    except UnicodeDecodeError as error:
        raise UsageError(f"{where} is no UTF-8 text ({error.reason} at byte {error.start}).") from None
    except RecursionError:
        raise UsageError(f"{where} is nested too deeply: a suite has {DEPTH} levels at most.") from None
    except yaml.YAMLError as error:
        raise UsageError(f"{where} is not valid YAML: {shown(error, 300)}.") from None
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        raise UsageError(f"{where} has a value that YAML cannot read: {shown(error)}.") from None
    return _Plain(where).value(found, ())


class _Plain:
    """Walks through a file's values, which must be those of a tree of moderate size."""

    def __init__(self, where: str) -> None:
        self.where, self.nodes = where, 0

    def value(self, value: Any, place: tuple[str, ...]) -> Any:
        """The same, mappings having texts for keys."""
        self.nodes += 1
        if self.nodes > NODES or len(place) > DEPTH:
            limit = f"{NODES} values or {DEPTH} levels"
            raise UsageError(f"{self.where} stands for more than {limit}: use fewer anchors, or less of it.")
        if isinstance(value, dict):
            return {
                self.key(key, place): self.value(inner, (*place, shown(key, 40)))
                for key, inner in value.items()
            }
        if isinstance(value, list):
            return [self.value(inner, (*place, str(index))) for index, inner in enumerate(value)]
        if isinstance(value, str):
            return self.text(value, place)
        if isinstance(value, float) and not math.isfinite(value):
            raise self.refused(place, f"is {value}: write a finite number")
        if value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int) and abs(value) < 2**63:
            return value
        kind = "a number beyond 64 bits" if isinstance(value, int) else f"a {type(value).__name__}"
        raise self.refused(place, f"is {kind}: write a text, number, true, false, list or mapping")

    def key(self, key: Any, place: tuple[str, ...]) -> str:
        """A key as text: YAML reads some words and numbers as other things."""
        if not isinstance(key, str):
            raise self.refused(place, f"has the key {shown(key)}, and a key is a text: put it into quotes")
        return self.text(key, place)

    def text(self, text: str, place: tuple[str, ...]) -> str:
        """A text that can be stored, hashed and printed."""
        if len(text) > LONGEST:
            raise self.refused(place, f"has a text of {len(text)} characters, and {LONGEST} are the most")
        if any(0xD800 <= ord(letter) < 0xE000 or letter == "\x00" for letter in text):
            raise self.refused(place, "has a text with characters that no file can hold")
        return text

    def refused(self, place: tuple[str, ...], why: str) -> UsageError:
        """The sentence for a value."""
        return UsageError(f"{self.where}: {'.'.join(place) or 'the whole'} {why}.")
