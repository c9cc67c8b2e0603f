"""The report's figures as functions of a table of records, for notebooks.

>>> import bench
>>> records = bench.load("results/reference/digits")
>>> records.query("metric == 'bits/dim' and family != 'anchor'").nsmallest(1, "value")["model"].item()
'transformer'
>>> chart = bench.figures.pareto(records)  # the last line of a cell of a notebook shows it
>>> chart.to_dict()["layer"][0]["mark"]["type"]
'rect'
>>> bench.figures.save(chart, "pareto.png")  # doctest: +SKIP

A chart is Altair's; small multiples are `Panels`, charts by the name of a model, which a notebook shows side
by side. A figure that these records cannot give is a ValueError in one sentence.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from bench.report import tables, theme

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

WIDTH, PANEL = 760, 330
"""Px of a single chart and of a panel of several."""


def pareto(records: pd.DataFrame) -> alt.LayerChart:
    """Quality against speed, the front named."""
    from bench.report.pareto import pareto as drawn

    return _one(drawn(tables.tidy(records)), "both a quality and a throughput")


def quality_vs_evaluations(records: pd.DataFrame) -> Panels:
    """Quality against evaluations of the network, a panel a model, a line a sampler."""
    from bench.report.evaluations import quality_vs_nfe

    return _many(quality_vs_nfe(tables.tidy(records)), "a choice of sampler and steps, and a quality")


def quality_vs_time(records: pd.DataFrame) -> Panels:
    """Quality against the time of an image, a panel a model, a line a sampler."""
    from bench.report.evaluations import quality_vs_time as drawn

    return _many(drawn(tables.tidy(records)), "a choice of sampler and steps, a quality and a throughput")


def bits_per_dimension(records: pd.DataFrame) -> alt.LayerChart:
    """Likelihoods by model, kinds told apart."""
    from bench.report.likelihood import bits_per_dim

    return _one(bits_per_dim(tables.tidy(records)), "a likelihood")


def throughput_by_batch(records: pd.DataFrame) -> alt.LayerChart:
    """Images a second by batch, the knee in a ring."""
    from bench.report.batches import throughput_by_batch as drawn

    return _one(drawn(tables.tidy(records)), "a sweep of batches")


def guidance(records: pd.DataFrame) -> Panels:
    """What the weight of guidance buys and costs."""
    from bench.report.guidance import guidance_curves

    return _many(guidance_curves(tables.tidy(records)), "several weights of guidance")


def certificates(records: pd.DataFrame) -> Panels:
    """The samplers' own error, apart from training."""
    from bench.report.certificates import certificate_curves

    return _many(certificate_curves(tables.tidy(records)), "certificates of samplers")


class Panels(dict[str, "alt.LayerChart"]):
    """Small multiples: charts by name, with the same axes; a notebook shows all of them as one picture."""

    def _repr_png_(self) -> bytes:
        from bench.report.pictures import png

        return png(list(self.values()))


def save(chart: alt.LayerChart | Panels, path: str | Path) -> None:
    """Write a figure as the .png that a report has, whole or not at all."""
    from bench import files
    from bench.report.pictures import png

    if Path(path).suffix != ".png":
        raise ValueError(
            f"a figure is saved as .png, and not as {path}: chart.save has Altair's other formats."
        )
    files.write_bytes(Path(path), png(list(chart.values()) if isinstance(chart, Panels) else [chart]))


def _one(chart: alt.LayerChart | None, needs: str) -> alt.LayerChart:
    if chart is None:
        raise ValueError(f"No cell of these records has {needs}: measure it first.")
    return _themed(chart.properties(width=WIDTH))


def _many(panels: Mapping[str, alt.LayerChart], needs: str) -> Panels:
    if not panels:
        raise ValueError(f"No cell of these records has {needs}: measure it first.")
    return Panels({name: _themed(panel.properties(width=PANEL)) for name, panel in panels.items()})


def _themed(chart: alt.LayerChart) -> alt.LayerChart:
    config = theme.vega_config("light") | {"background": theme.LIGHT["paper"]}
    # Altair's schema does not know the layout of legends, which is for a page that is folded anyway.
    config["legend"] = {key: value for key, value in config["legend"].items() if key != "layout"}
    chart.config = config
    return chart
