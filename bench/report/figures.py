"""All figures of a report, in the order of the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.report import ReportData, tables
from bench.report.batches import throughput_by_batch
from bench.report.certificates import certificate_curves
from bench.report.curves import learning_curves
from bench.report.differences import paired_differences
from bench.report.evaluations import quality_vs_nfe, quality_vs_time
from bench.report.guidance import guidance_curves
from bench.report.ladders import FLATTERS, bits_by_evaluations
from bench.report.likelihood import bits_per_dim
from bench.report.noise_levels import bits_by_noise, parts_said
from bench.report.pareto import pareto
from bench.report.series import MOST

if TYPE_CHECKING:
    import altair as alt
    import pandas as pd

__all__ = [
    "Figure",
    "all_figures",
    "bits_by_evaluations",
    "bits_by_noise",
    "bits_per_dim",
    "certificate_curves",
    "guidance_curves",
    "learning_curves",
    "paired_differences",
    "pareto",
    "quality_vs_nfe",
    "quality_vs_time",
    "specs",
]

PANELS = (
    "A panel a model, a line a sampler with its grid, options and weight, the same axes in all; where there "
    f"are more than {MOST}, the ones nearest to the best at some budget have names and the rest are faint."
)


@dataclass(frozen=True)
class Figure:
    """A figure: one chart, or small multiples.

    name     identifier, fit for a file name
    caption  one sentence: how to read it
    panels   charts of equal form; none: the figure was not measured, and `caption` says so
    """

    name: str
    title: str
    caption: str
    panels: tuple[alt.LayerChart, ...]


def all_figures(report: ReportData) -> list[Figure]:
    """Pareto front, quality by evaluations and by time, guidance, likelihoods, learning curves."""
    records = tables.tidy(report.records)
    families = dict(zip(records["model"], records["family"], strict=True))
    return [
        _figure(
            "pareto",
            "Quality against speed",
            "Cells on the staircase are best at their speed; the others are faded. Bars are 95 % intervals.",
            "No cell has both a quality and a throughput.",
            pareto(records),
        ),
        _figure(
            "evaluations",
            "Quality against evaluations of the network",
            f"{PANELS} Bars are 95 % intervals.",
            "No cell with a choice of sampler and steps has a quality.",
            *quality_vs_nfe(records).values(),
        ),
        _figure(
            "time",
            "Quality against time",
            f"{PANELS} Time is that of one image in a batch, 1000 over the images per second. Bars are 95 % "
            "intervals.",
            "No cell with a choice of sampler and steps has both a quality and a throughput.",
            *quality_vs_time(records).values(),
        ),
        *_batches(records),
        *_guidance(records),
        *_certificates(records),
        _figure(
            "bits",
            "Bits per dimension",
            "Test images. A triangle is an upper bound: the true value lies at it or left of it; a diamond "
            "is an estimate, which may err on either side. Bars are 95 % intervals.",
            "No likelihood was measured.",
            bits_per_dim(records),
        ),
        *_likelihoods(records, report),
        _figure(
            "curves",
            "Learning curves",
            "Training loss and its running median. Objectives differ, so panels have axes of their own.",
            "No learning curve was recorded.",
            *learning_curves(report.curves, families).values(),
        ),
    ]


def _batches(records: pd.DataFrame) -> list[Figure]:
    """The figure of batches, only where a suite sweeps them."""
    caption = (
        "A ring is the knee: the smallest batch with four fifths of the best throughput, beyond which a "
        "larger one buys little; at the end of a line it lies there or beyond. Bars are 95 % intervals."
    )
    found = Figure("batches", "Throughput by batch", caption, _drawn(throughput_by_batch(records)))
    return [found] if found.panels else []


def _guidance(records: pd.DataFrame) -> list[Figure]:
    """The figure of guidance, only where a suite asks for it: most models have no condition."""
    panels = guidance_curves(records)
    caption = (
        "Shares of samples that show what was asked for, and their quality, against the weight w of "
        f"u + w(c − u), for the {MOST} best samplers at most. Bars are 95 % intervals."
    )
    return (
        [Figure("guidance", "What guidance buys and costs", caption, tuple(panels.values()))]
        if panels
        else []
    )


def _certificates(records: pd.DataFrame) -> list[Figure]:
    """The figure of the samplers alone, only where their certificates were asked for."""
    panels = certificate_curves(records)
    caption = (
        "Samplers on a mixture of Gaussians with its exact denoiser, so that what is left is their own "
        "error: the r.m.s. distance from the exact end of the probability flow of the same noise, on the "
        "suite's grid; p is the observed order of convergence. For samplers that draw noise it is the sliced "
        "Wasserstein distance of their law, and the band is what exact draws score. Bars are 95 % intervals."
    )
    title = "Sampler error apart from training error"
    return [Figure("certificates", title, caption, tuple(panels.values()))] if panels else []


def _likelihoods(records: pd.DataFrame, report: ReportData) -> list[Figure]:
    """What is known of likelihoods image by image, step by step and by setting: each only where it is."""
    found = [
        Figure(
            "bits-paired",
            "Paired differences between models",
            "The first estimate of every model less that of the best, image by image, with the 95 % interval "
            "of the mean of these differences; a model whose interval holds 0 is not told apart. Shape says "
            "the kind: an upper bound (triangle) or an estimate (diamond) can differ by its slack alone.",
            _drawn(paired_differences(records, report.nats)),
        ),
        Figure(
            "bits-noise",
            "Bits by noise level",
            "Variational sums: the area under a line is the diffusion part of the bound in bits per "
            "dimension, bands are 95 % intervals. Prior and reconstruction, at the two ends of the axis, "
            f"come on top of it. {parts_said(records, report.terms)}.",
            _drawn(bits_by_noise(records, report.terms)),
        ),
        Figure(
            "bits-evaluations",
            "Bits against evaluations of ODE estimates",
            "The same few images, dequantisation and probes at other steps or tolerances: bits per "
            f"dimension beyond the finest setting. {FLATTERS}. A ring is the suite’s own setting; bars are "
            "paired 95 % intervals.",
            _drawn(bits_by_evaluations(records, report.ladders)),
        ),
    ]
    return [figure for figure in found if figure.panels]


def _drawn(panel: alt.LayerChart | None) -> tuple[alt.LayerChart, ...]:
    return () if panel is None else (panel,)


def _figure(name: str, title: str, caption: str, absent: str, *panels: alt.LayerChart | None) -> Figure:
    drawn = tuple(panel for panel in panels if panel is not None)
    return Figure(name, title, caption if drawn else absent, drawn)


def specs(figure: Figure) -> list[dict[str, Any]]:
    """Vega-Lite of every panel as plain data, without the address of its schema and a configuration."""
    found = []
    for panel in figure.panels:
        spec = panel.to_dict(validate=False)
        for key in ("$schema", "usermeta", "config"):
            spec.pop(key, None)
        found.append(spec)
    return found
