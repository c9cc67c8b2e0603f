"""SHA-256 of what a module, function or object is made of: its source, and all that it holds.

Two that hold other weights have other fingerprints wherever the weights are: in parameters and buffers, in a
list, a dictionary or an object within an object, in what a function closes over or has as defaults, in the
object that a method is bound to, in a partial's arguments. The same one has the same fingerprint in another
process. What is reached through globals is not seen; what cannot be read is refused.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import types
from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

PLAIN = (type(None), bool, int, float, complex, str, bytes, range, slice, PurePath, torch.dtype, torch.device)
"""Values whose repr is all that there is of them."""
STATELESS = {"training", "_is_full_backward_hook"}
"""Attributes of a module that are no part of what it computes, once it is put into evaluation."""


def fingerprint(value: Any) -> str:
    """Hex digits of the SHA-256. Raises ValueError where something in it cannot be read."""
    return _Reader().read(value, type(value).__name__)


class _Reader:
    """One walk. What is being read is told by its depth where it comes again, so that cycles end."""

    def __init__(self) -> None:
        self.open: dict[int, int] = {}
        self.cycles = 0
        self.done: dict[int, tuple[Any, str]] = {}  # the object is kept, else its id could come again

    def read(self, value: Any, where: str) -> str:
        """Fingerprint of a value found at `where`."""
        if isinstance(value, PLAIN):
            return _hash(type(value).__name__, repr(value))
        if id(value) in self.done:
            return self.done[id(value)][1]
        if id(value) in self.open:
            self.cycles += 1
            return _hash("cycle", str(len(self.open) - self.open[id(value)]))
        self.open[id(value)], cycles = len(self.open), self.cycles
        found = self._kinds(value, where)
        del self.open[id(value)]
        if self.cycles == cycles:  # else it depends on where the walk came in
            self.done[id(value)] = (value, found)
        return found

    def _kinds(self, value: Any, where: str) -> str:
        if isinstance(value, Tensor):
            return _hash("tensor", *_tensor(value, where))
        if isinstance(value, np.ndarray | np.generic):
            return self._array(np.asarray(value), where)
        if isinstance(value, Mapping):
            return self._mapping(value, where)
        if isinstance(value, list | tuple):
            parts = (self.read(item, f"{where}[{i}]") for i, item in enumerate(value))
            return _hash(type(value).__name__, *parts)
        if isinstance(value, set | frozenset):
            return _hash("set", *sorted(self.read(item, f"an item of {where}") for item in value))
        return self._made_of_code(value, where)

    def _array(self, array: np.ndarray, where: str) -> str:
        if array.dtype.hasobject:
            return _hash("array", str(array.shape), *(self.read(x, where) for x in array.ravel().tolist()))
        return _hash("array", str(array.dtype), str(array.shape), np.ascontiguousarray(array).tobytes())

    def _mapping(self, value: Mapping[Any, Any], where: str) -> str:
        items = {self.read(key, f"a key of {where}"): (key, item) for key, item in value.items()}
        parts = []
        for at in sorted(items):
            key, item = items[at]
            parts += [at, self.read(item, f"{where}[{key!r}]")]
        return _hash("mapping", *parts)

    def _made_of_code(self, value: Any, where: str) -> str:
        if isinstance(value, types.MethodType):
            return _hash(
                "method", self.read(value.__func__, where), self.read(value.__self__, f"{where}.__self__")
            )
        if isinstance(value, functools.partial):
            given = (value.func, value.args, value.keywords)
            return _hash("partial", *(self.read(part, f"{where}'s arguments") for part in given))
        if isinstance(value, types.FunctionType):
            return self._function(value, where)
        if isinstance(value, types.BuiltinFunctionType) and isinstance(
            value.__self__, types.ModuleType | None
        ):
            return _hash("builtin", str(value.__module__), value.__qualname__)
        if isinstance(value, types.ModuleType):
            return _hash("module", value.__name__, str(getattr(value, "__version__", "")))
        if isinstance(value, type):
            return _hash("class", _class_source(value))
        if hasattr(value, "__wrapped__") or hasattr(value, "_orig_mod"):  # a cache, or a compiled module
            inner = getattr(value, "_orig_mod", None) or value.__wrapped__
            return _hash("wrapped", type(value).__qualname__, self.read(inner, where))
        if isinstance(value, torch.jit.ScriptModule):
            return _hash("script", str(value.code), self._mapping(value.state_dict(), where))
        return self._object(value, where)

    def _function(self, value: types.FunctionType, where: str) -> str:
        cells = value.__closure__ or ()
        closed = dict(zip(value.__code__.co_freevars, (_cell(cell) for cell in cells), strict=True))
        held = {"defaults": value.__defaults__, "keywords": value.__kwdefaults__, **vars(value)}
        held |= {f"closure {name}": item for name, item in closed.items()}
        return _hash("function", _source(value), self._mapping(held, where))

    def _object(self, value: Any, where: str) -> str:
        """Its class and its attributes; where it has none, what it would be pickled as."""
        held = _attributes(value)
        if held is None:
            try:
                reduced = value.__reduce_ex__(4)
            except Exception:
                kind = f"{type(value).__module__}.{type(value).__qualname__}"
                raise ValueError(
                    f"{where} is a {kind}, whose contents cannot be read, so that its weights have no hash: "
                    "hold them as tensors, or pass weights_sha256."
                ) from None
            if isinstance(reduced, str):
                return _hash("named", type(value).__qualname__, reduced)
            held = {"state": reduced[1:3], "items": [list(part) for part in reduced[3:5] if part is not None]}
        parts = [self.read(item, f"{where}.{name}") for name, item in sorted(held.items())]
        return _hash("object", _class_source(type(value)), *sorted(held), *parts)


def _attributes(value: Any) -> dict[str, Any] | None:
    """What an object holds by name; None where neither a dictionary nor slots tell."""
    if isinstance(value, nn.Module):
        return {
            n: v for n, v in vars(value).items() if n not in STATELESS and not (n.endswith("hooks") and not v)
        }
    slots = [
        n for c in type(value).__mro__ for n in _names(vars(c).get("__slots__", ())) if n != "__weakref__"
    ]
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    if hasattr(value, "__dict__"):
        # A builtin's subclass, or an extension's object, may hold more than its dictionary says.
        extension = any(not _is_python(c) for c in type(value).__mro__ if c is not object)
        return None if extension else {**vars(value), **found}
    return found if slots else None


def _is_python(one: type) -> bool:
    """Whether a class is written in Python, so that its instances hold what their attributes say."""
    return bool(one.__flags__ & (1 << 9))


def _names(slots: str | Iterable[str]) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _tensor(value: Tensor, where: str) -> tuple[str, str, bytes]:
    if value.layout != torch.strided or value.is_quantized or value.is_meta:
        raise ValueError(f"{where} is a tensor whose values cannot be read as they are: make it dense first.")
    flat = value.detach().cpu().contiguous().flatten()
    return str(value.dtype), str(tuple(value.shape)), flat.view(torch.uint8).numpy().tobytes()


def _cell(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


_classes: dict[type, str] = {}


def _class_source(one: type) -> str:
    """Source of a class and of those it is made from; the name alone of Python's and PyTorch's own."""
    if one not in _classes:
        known = ("builtins", "abc", "typing", "torch", "numpy")
        names = ((c, c.__module__.partition(".")[0] in known) for c in one.__mro__)
        _classes[one] = "\n".join(c.__qualname__ if plain else _source(c) for c, plain in names)
    return _classes[one]


def _source(value: Any) -> str:
    """Source text; of what was typed into a prompt, the code that it became."""
    name = f"{value.__module__}.{value.__qualname__}"
    try:
        return f"{name}\n{inspect.getsource(value)}"
    except (OSError, TypeError):
        pass
    if isinstance(value, types.FunctionType):
        return f"{name}\n{_code(value.__code__)}"
    methods = [v for v in vars(value).values() if isinstance(v, types.FunctionType)]
    return f"{name}\n" + "\n".join(_code(method.__code__) for method in methods)


def _code(code: types.CodeType) -> str:
    """Instructions, names and constants, those of inner functions too."""
    consts = [_code(c) if isinstance(c, types.CodeType) else repr(c) for c in code.co_consts]
    return f"{code.co_code.hex()} {code.co_names} {consts}"


def _hash(*parts: str | bytes) -> str:
    """Of parts, each with its length, so that no two lists of parts read the same."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        found.update(len(data).to_bytes(8, "little") + data)
    return found.hexdigest()
