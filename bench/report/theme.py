"""Colours of the report, one palette a theme: the page's CSS and the figures both take them from here.

Families are Okabe-Ito colours (Okabe & Ito 2008, Color Universal Design), told apart under the common
forms of colour blindness, the last ones from Tol's muted scheme (Tol 2021); points also carry an outline
in the colour of ink, so that the light ones stand out on paper. Nothing is told by colour alone: samplers
and kinds have shapes and labels.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

LIGHT = {
    "paper": "#ffffff",
    "raised": "#f6f7f8",
    "ink": "#1b1f24",
    "muted": "#59616b",
    "line": "#d5d9de",
    "accent": "#005c94",
    "warning": "#9a3300",
    "mark": "#e6f0f7",
}
DARK = {
    "paper": "#14171b",
    "raised": "#1c2026",
    "ink": "#e7eaee",
    "muted": "#a3abb5",
    "line": "#363c45",
    "accent": "#7cc4f2",
    "warning": "#ffab7a",
    "mark": "#1d3142",
}
THEMES = {"light": LIGHT, "dark": DARK}

FAMILY_COLOURS = (
    "#CC79A7", "#009E73", "#56B4E9", "#0072B2", "#D55E00", "#E69F00", "#F0E442", "#999999",
    "#661100", "#44AA99", "#332288", "#DDCC77",
)  # fmt: skip
FAMILIES = (
    "autoregressive", "latent variable", "normalizing flow", "diffusion", "flow matching",
    "diffusion transformer", "continuous flow", "rectified flow", "latent diffusion",
    "multi-modal diffusion transformer",
)  # fmt: skip
SERIES_COLOURS = (
    "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#AA4499", "#999933",
    "#44AA99", "#CC6677", "#8C6BB1", "#999999",
)  # fmt: skip
"""Of the lines of a panel: Okabe-Ito and Tol without the colours that are too light or dark for a line."""
SHAPES = (
    "circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "triangle-right", "triangle-left",
    "M-1,-.6L-.6,-1L0,-.4L.6,-1L1,-.6L.4,0L1,.6L.6,1L0,.4L-.6,1L-1,.6L-.4,0Z", "M-1,-.4L1,-.4L1,.4L-1,.4Z",
)  # fmt: skip
SAMPLERS = ("euler", "heun", "ddim", "ddpm", "ancestral", "prior", "inverse", "one-step", "mean-flow", "ode")
KINDS = {"exact": "circle", "bound": "triangle-left", "estimate": "diamond"}
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


def assign(names: Iterable[str], known: tuple[str, ...], values: tuple[str, ...]) -> dict[str, str]:
    """A value for each name: known names keep theirs in every report, others follow in sorted order."""
    present = set(names)
    extra = sorted(present - set(known))
    order = [*known, *extra]
    return {name: values[order.index(name) % len(values)] for name in order if name in present}


def css_variables(name: str) -> str:
    """The palette of one theme as CSS custom properties."""
    return "".join(f"--{role}:{colour};" for role, colour in THEMES[name].items())


def vega_config(name: str) -> dict[str, Any]:
    """Vega-Lite configuration of one theme; charts themselves name roles (styles), never colours of it."""
    palette = THEMES[name]
    ink, muted, line = palette["ink"], palette["muted"], palette["line"]
    return {
        "background": None,
        "font": FONT,
        "view": {"stroke": None},
        "axis": {
            "labelColor": muted, "titleColor": ink, "gridColor": line, "domainColor": muted,
            "tickColor": muted, "labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal",
            "gridOpacity": 0.6, "labelLimit": 150, "titlePadding": 8, "titleLimit": 420,
        },
        "legend": {
            "labelColor": ink, "titleColor": muted, "labelFontSize": 11, "titleFontSize": 11,
            "titleFontWeight": "normal", "orient": "bottom", "symbolSize": 80, "labelLimit": 150,
            "symbolBaseFillColor": muted, "columnPadding": 14, "rowPadding": 4,
            "layout": {"bottom": {"direction": "vertical", "anchor": "start", "margin": 10}},
        },
        "title": {
            "color": ink, "fontSize": 12, "fontWeight": 600, "anchor": "start", "offset": 8, "limit": 300
        },
        "style": {
            "cell-point": {"stroke": ink, "strokeWidth": 0.8},
            "own-point": {"color": ink, "strokeWidth": 1.4},
            "whisker": {"color": muted, "strokeWidth": 1.2},
            "context": {"color": muted, "strokeWidth": 0.8, "opacity": 0.35},
            "context-point": {"color": muted, "opacity": 0.35},
            "front": {"color": muted, "strokeWidth": 1.2},
            "leader": {"color": muted, "strokeWidth": 0.7},
            "floor-line": {"color": ink, "strokeWidth": 1.2, "strokeDash": [5, 4]},
            "floor-band": {"color": muted, "fillOpacity": 0.16},
            "anchor-line": {"color": muted, "strokeWidth": 1.2, "strokeDash": [2, 3]},
            "direct-label": {"color": ink, "fontSize": 11},
            "quiet-label": {"color": muted, "fontSize": 11},
            "halo": {
                "color": palette["paper"], "stroke": palette["paper"], "strokeWidth": 4,
                "strokeJoin": "round", "fontSize": 11,
            },
        },
    }  # fmt: skip
