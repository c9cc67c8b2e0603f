"""The comparison of a run: one self-contained HTML page, a Markdown page, figures and sample sheets.

    page.render_html(report)          the page: no network, a content security policy that forbids it
    markdown.render_markdown(report)  the same answers for a repository page
    markdown.figures_png(report)      the figures that page links to
    latex.render_latex(report)        the ranking with protocols as footnotes
    sheets.contact_sheet(pixels, …)   a PNG of images side by side

Everything here is a pure function of its `ReportData`: the same records give the same bytes. Importing
this package is cheap; altair, vl-convert and jinja2 are loaded by the function that needs them.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


NATS = ("model", "cell_key", "image", "nats")
TERMS = ("model", "cell_key", "log_snr_from", "log_snr_to", "bits", "low", "high")
LADDERS = ("model", "cell_key", "setting", "nfe", "difference", "low", "high", "own")


def _empty(*columns: str) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns=list(columns))


@dataclass(frozen=True)
class ReportData:
    """What a report is made of.

    records  one row a number, the columns of `bench.records.Record`
    run      the content of run.json: spec as passed and resolved, provenance of every call
    curves   columns model, step, loss, seconds: the training loss on the way
    sheets   caption -> PNG bytes, in the order to show; `real` is the sheet of real images, the others
             are named by `tables.cell_label`
    nearest  caption -> PNG bytes: for each image of that sheet the training image nearest to it in pixels
    suite    name of the suite
    nats     columns `NATS`: −ln P of every image under each likelihood cell
    terms    columns `TERMS`: bits per dimension of each step of a variational sum, with 95 % intervals;
             steps follow each other and their bits add up to the diffusion part
    ladders  columns `LADDERS`: an ODE estimate at other numbers of steps or tolerances, as the paired
             difference in bits per dimension to the finest setting; `own` is the suite's setting
    """

    records: pd.DataFrame
    run: Mapping[str, Any]
    curves: pd.DataFrame
    sheets: Mapping[str, bytes] = field(default_factory=dict)
    nearest: Mapping[str, bytes] = field(default_factory=dict)
    suite: str = ""
    nats: pd.DataFrame = field(default_factory=functools.partial(_empty, *NATS))
    terms: pd.DataFrame = field(default_factory=functools.partial(_empty, *TERMS))
    ladders: pd.DataFrame = field(default_factory=functools.partial(_empty, *LADDERS))
