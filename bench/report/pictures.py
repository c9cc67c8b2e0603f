"""Figures as PNG files: panels side by side on white paper, the same bytes for the same figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.report import theme

if TYPE_CHECKING:
    import altair as alt
    from PIL import Image

WIDTH = 760
PANEL_WIDTH = 330
GAP = 24
DENSITY = 2
"""Pixels of a PNG for one px of the figure."""


def png(panels: Sequence[alt.LayerChart]) -> bytes:
    """Panels side by side, two in a row, as one PNG."""
    from PIL import Image

    images = [drawn(panel, WIDTH if len(panels) == 1 else PANEL_WIDTH) for panel in panels]
    columns, gap = min(2, len(images)), GAP * DENSITY
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    across = max(image.width for image in images) + gap
    heights = [max(image.height for image in row) + gap for row in rows]
    sheet = Image.new("RGB", (across * columns + gap, sum(heights) + gap), theme.LIGHT["paper"])
    for index, row in enumerate(rows):
        for column, image in enumerate(row):
            sheet.paste(image, (gap + column * across, gap + sum(heights[:index])))
    stream = io.BytesIO()
    sheet.save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def drawn(panel: alt.LayerChart, width: int) -> Image.Image:
    """One chart at a fixed width, on paper."""
    import vl_convert
    from PIL import Image

    spec = panel.to_dict(validate=False) | {"width": width}
    config = theme.vega_config("light") | {"background": theme.LIGHT["paper"], "font": "sans-serif"}
    data = vl_convert.vegalite_to_png(spec, config=config, scale=DENSITY)
    return Image.open(io.BytesIO(data)).convert("RGB")
