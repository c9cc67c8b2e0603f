"""The static profile: names, machine code, roofs, pictures, and Proton's tree."""

from __future__ import annotations

import pytest

from bench.errors import UsageError
from bench.kernel_bench.shapes import SHAPES
from bench.kernel_profile import (
    card_named,
    least_time,
    match,
    mix_figure,
    ncu_command,
    observed,
    roof_figure,
    static,
)
from kernels.roofline import CARDS


def test_a_profile_of_one_kernel() -> None:
    """Its machine code has what a forward kernel has, and the least time is that of its operation."""
    (one,) = static([k for k in match("attention forward d72", 90, "bfloat16") if k.name.endswith("sm90")])
    assert one.head_size == 72
    assert one.defects == []
    assert one.compiled.instructions["wgmma"] > 0
    assert one.compiled.instructions["exp2"] > 0
    least = least_time(one, SHAPES["dit-xl-2-512"], CARDS["h200"])
    assert least is not None
    assert least.seconds * 1e6 == pytest.approx(48.9, rel=0.01)
    assert least_time(one, SHAPES["flux-512"], CARDS["h200"]) is None  # another head size
    spec = mix_figure([one]).to_dict(validate=False)
    counts = [row["count"] for row in next(iter(spec["datasets"].values()))]
    assert sum(counts) <= one.compiled.instructions["all"]


def test_words_choose_kernels_and_wrong_ones_name_the_nearest() -> None:
    names = [one.name for one in match("prepare backward", 90, "bfloat16")]
    assert names
    assert all("prepare backward" in name and "sm90" in name and "bfloat16" in name for name in names)
    with pytest.raises(UsageError, match="attention"):
        match("atention")
    with pytest.raises(UsageError, match="No kernel is called 'hopper' on this card"):
        match("hopper", 80)
    with pytest.raises(UsageError, match="h200"):
        card_named("h20")


@pytest.mark.parametrize("name", list(CARDS))
def test_roofs_of_every_card_are_drawn(name: str) -> None:
    spec = roof_figure(CARDS[name]).to_dict(validate=False)
    rows = next(iter(spec["datasets"].values()))
    assert {row["by"] for row in rows} == {"matrix", "bandwidth", "exponentials"}
    assert all(row["µs"] > 0 for row in rows)


def test_the_command_of_nsight_compute_is_whole() -> None:
    said = ncu_command("attention", "flux-1024")
    assert said.startswith("ncu --set full")
    assert "noisebench kernels bench --op attention --shape flux-1024 --providers triton" in said


def test_protons_tree_is_read() -> None:
    """Times in nanoseconds, rates from the work of a scope over the time of what ran in it."""
    inner = [{"frame": {"name": "hopper_kernel"}, "metrics": {"time (ns)": 2000, "count": 4}, "children": []}]
    scope = {"frame": {"name": "attention"}, "metrics": {"flops16": 4e6, "bytes": 2e3}, "children": inner}
    tree = [{"frame": {"name": "ROOT"}, "metrics": {}, "children": [scope]}, {"cuda": {"0": {}}}]
    found = {one.name: one for one in observed(tree)}
    assert set(found) == {"hopper_kernel", "attention"}
    assert (found["hopper_kernel"].seconds, found["hopper_kernel"].launches) == (2e-6, 4)
    assert found["attention"].seconds == pytest.approx(2e-6)
    assert found["attention"].flops == pytest.approx(2e12)
    assert found["attention"].bandwidth == pytest.approx(1e9)
