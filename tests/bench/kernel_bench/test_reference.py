"""The one command for a GPU machine, in small: every part in a process of its own, files as it goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bench.kernel_bench import reference
from bench.kernel_bench.end_to_end import SMOKE, kind_of, ways
from bench.kernel_bench.reference import Part, load_summary, parts, run
from bench.runtime import Runtime

CPU = Runtime("cpu", 1)


def test_shares_of_the_budget_are_all_of_it() -> None:
    for smoke in (True, False):
        assert sum(part.share for part in parts(smoke)) == pytest.approx(1.0)


def test_a_part_that_fails_takes_no_other_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown shape ends its own process alone; the summary says so and holds both."""
    good = ("bench", "--op", "adaln", "--shape", "smoke-dit", "--dtype", "float32", "--repeats", "3")
    chosen = [
        Part("bad", ("bench", "--shape", "no-such-shape"), 0.5),
        Part("good", (*good, "--direction", "forward", "--providers", "eager"), 0.5),
    ]
    monkeypatch.setattr(reference, "parts", lambda _: chosen)
    done = list(run(tmp_path, 60.0, True, CPU))
    assert [one.code for one in done] == [2, 0]
    assert "no-such-shape" in done[0].tail
    assert (tmp_path / "good" / "kernels.json").exists()
    assert [one["name"] for one in load_summary(tmp_path)["parts"]] == ["bad", "good"]


def test_no_time_left_is_said(tmp_path: Path) -> None:
    done = list(run(tmp_path, -1.0, True, CPU))
    assert {one.code for one in done} == {-1}


@pytest.mark.campaign
def test_all_parts_in_small(tmp_path: Path) -> None:
    done = list(run(tmp_path, 300.0, True, CPU))
    assert [one.code for one in done] == [0] * len(parts(True)), [one.tail for one in done]
    assert (tmp_path / "end-to-end" / "end_to_end.json").exists()


def test_a_whole_dit_by_every_way_that_runs_here() -> None:
    """diffusers' pipeline and ours on its weights; what needs a GPU says so."""
    pytest.importorskip("diffusers")
    found = {way.name: way for way in ways(SMOKE, torch.device("cpu"))}
    for name in ("diffusers", "ours, PyTorch's attention"):
        rate = found[name].images_per_second
        assert rate is not None, found[name].note
        assert rate > 0
    if not torch.cuda.is_available():
        assert "need an NVIDIA GPU" in found["ours, fused"].note


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("void pytorch_flash::flash_fwd_kernel<...>", "attention"),
        ("hopper_kernel", "attention"),
        ("nvjet_hsh_128x256", "matrix products"),
        ("modulate_kernel", "norms and modulation"),
        ("void at::native::vectorized_elementwise_kernel", "other"),
    ],
)
def test_kernels_by_what_they_do(name: str, kind: str) -> None:
    assert kind_of(name) == kind
