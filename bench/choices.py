"""How a suite says what to sample with: sampler, steps, grid and execution; and how to guide.

Names and options are those of `models.samplers`, `models.grids` and `models.guidance`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pydantic
from pydantic import BeforeValidator, Field, field_validator, model_validator

Positive = Annotated[int, Field(gt=0)]


class Strict(pydantic.BaseModel):
    """Frozen; an unknown key is an error."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


def _grid(value: Any) -> str:
    """A grid as its canonical text, from a name, such a text or a mapping."""
    from models.grids import Grid

    return str(Grid.parse(value))


Grid = Annotated[str, BeforeValidator(_grid)]
"""`karras`, `karras rho=5` or {name: karras, rho: 5}; `native` is each sampler's own."""


class SamplerChoice(Strict):
    """One sampler at several numbers of steps.

    steps      left out for a sampler that chooses its own
    grid       in place of the suite's
    execution  eager; compiled: each step by torch.compile; cuda-graph: the whole loop captured
    """

    name: str
    steps: list[Positive] = []
    options: dict[str, Any] = {}
    grid: Grid | None = None
    execution: Literal["eager", "compiled", "cuda-graph"] = "eager"

    @field_validator("steps", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, int) else value

    @model_validator(mode="after")
    def _steps_where_they_are_chosen(self) -> SamplerChoice:
        from models.samplers import catalogue

        known = catalogue.ENTRIES.get(self.name)
        if known is not None and not known.adaptive and not self.steps:
            raise ValueError(f"sampler {self.name} needs steps, such as [10, 50]")
        if known is not None and known.adaptive and (self.steps or self.execution != "eager"):
            raise ValueError(f"sampler {self.name} chooses its own steps: leave steps and execution out")
        return self


class GuidanceChoice(Strict):
    """How to guide: a weight alone, or what `models.guidance.Guidance` takes.

    weaker  the model of the suite, listed before, that autoguidance goes away from
    """

    weight: float
    how: dict[str, Any] = {}
    weaker: str = ""

    @model_validator(mode="before")
    @classmethod
    def _from_number_or_mapping(cls, data: Any) -> Any:
        if isinstance(data, int | float) and not isinstance(data, bool):
            return {"weight": data}
        if not isinstance(data, dict) or "weight" not in data:
            raise ValueError(f"guidance is a weight or a mapping with a weight, and not {data!r}")
        if "how" in data:
            return data
        how = {name: value for name, value in data.items() if name not in ("weight", "weaker")}
        return {"weight": data["weight"], "how": how, "weaker": data.get("weaker", "")}

    @model_validator(mode="after")
    def _known(self) -> GuidanceChoice:
        from models.guidance import Guidance

        rule = Guidance.of({"weight": self.weight, **self.how})
        if (rule.method == "autoguidance") != bool(self.weaker):
            raise ValueError("guidance by autoguidance, and it alone, needs `weaker`: a model listed before")
        return self
