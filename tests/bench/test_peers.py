"""Protects `noisebench peers`: what it counts, its floor, and what it says where no peer is installed."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import types
from collections.abc import Callable
from importlib import metadata
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.data.mixture import anisotropic
from bench.errors import UsageError
from bench.peers import KINDS, compare, metering
from bench.peers import samplers as peers
from bench.peers.bare import LOOPS
from bench.peers.metering import Counter, Metered, Spread, Timed, overheads
from bench.peers.networks import IMAGE, by_noise, small_network, towards_data
from bench.peers.pairing import Pairing
from models.denoiser import Denoiser
from models.gaussian_path import GaussianPath
from models.grids import grid
from models.paths import ExplodingPath, LinearVPPath, RectifiedFlowPath
from models.samplers import sampler
from models.samplers.catalogue import ENTRIES
from models.samplers.catalogue import check as check_sampler

Call = Callable[..., subprocess.CompletedProcess[str]]
EDM = ExplodingPath(160.0)


class OurEuler:
    """A peer that is our own bare loop, on a grid of ours."""

    def __init__(self, steps: int, off: float = 0.0) -> None:
        self.times = grid("uniform", RectifiedFlowPath(), steps)
        self._off = off

    def reset(self, x: Tensor, seed: int) -> None:
        self._loop = LOOPS["euler"](RectifiedFlowPath(), "velocity", self.times, len(x))

    def __call__(self, network: Any, x: Tensor) -> Tensor:
        return self._loop(network, x) + self._off


def pair(off: float = 0.0, **changes: Any) -> Pairing:
    """Our Euler beside the loop, under the name of a package that is always there."""
    made = Pairing(
        "torch",
        "loop",
        lambda steps: OurEuler(steps, off),
        "euler",
        RectifiedFlowPath(),
        "velocity",
        bare="euler",
    )
    return dataclasses.replace(made, **changes)


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(peers.MODULES, "torch", "torch")


@pytest.fixture
def _nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in peers.MODULES.values():
        monkeypatch.setitem(sys.modules, name.partition(".")[0], None)
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.usefixtures("_nothing_installed")
def test_without_peers_every_row_is_skipped_with_the_reason() -> None:
    rows = list(compare("samplers", repeats=1))
    assert {row.peer for row in rows} == set(peers.MODULES)
    for row in rows:
        assert row.status == "skipped"
        assert row.note.startswith(f"{row.peer} is not installed: pip install 'noisebench[peers]'")
        assert ("--no-deps k-diffusion" in row.note) == (row.peer == "k-diffusion")
        assert row.version == ""


def test_a_package_that_needs_another_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    """As clip-anytorch needs pkg_resources, which new versions of setuptools leave out."""

    def missing(name: str) -> types.ModuleType:
        raise ModuleNotFoundError("No module named 'pkg_resources'", name="pkg_resources")

    monkeypatch.setattr(peers.importlib, "import_module", missing)
    assert "k-diffusion needs pkg_resources" in peers.why_missing("k-diffusion")


def test_a_package_that_cannot_be_imported_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(name: str) -> types.ModuleType:
        raise RuntimeError("no such operator")

    monkeypatch.setattr(peers.importlib, "import_module", broken)
    assert peers.why_missing("diffusers") == "diffusers cannot be imported: RuntimeError: no such operator"


def test_every_row_names_a_sampler_of_ours_and_the_rows_of_the_overhead_are_there() -> None:
    pairs = peers.all_pairings()
    for each in pairs:
        check_sampler(each.ours, each.options)
        assert not each.bare or each.bare in LOOPS
    timed = {(each.package, each.ours) for each in pairs if not each.defect}
    wanted = ("euler", "ddim", "dpmpp-2m", "unipc", "ddpm", "edm", "deis", "lms", "dpmpp-2m-sde")
    assert {("diffusers", name) for name in wanted} <= timed
    assert {("k-diffusion", "euler"), ("k-diffusion", "dpmpp-2m"), ("flow_matching", "euler")} <= timed
    assert len({(each.package, each.theirs) for each in pairs}) == len(pairs)
    assert {each.ours for each in pairs} <= set(ENTRIES)


@pytest.mark.usefixtures("_installed")
def test_a_row_has_everything_that_was_measured() -> None:
    """On a peer that is our own loop: the same end, one operation, no reads."""
    (row,) = peers.rows(steps=6, repeats=3, batch=4, pairs=[pair()])
    assert (row.status, row.note, row.steps, row.version) == ("ok", "", 6, metadata.version("torch"))
    assert row.largest is not None
    assert row.largest <= 1e-6
    assert row.rms is not None
    assert row.rms <= row.largest
    assert (row.evaluations_ours, row.evaluations_theirs) == (6, 6)
    assert (row.reads_ours, row.reads_theirs) == (0.0, 0.0)
    assert row.operations_ours == row.operations_bare == 1.0
    for spread in (row.microseconds_ours, row.microseconds_theirs, row.microseconds_bare):
        assert spread is not None
        assert 0.0 <= spread.low <= spread.median <= spread.high


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("given", "note"),
    [
        (pair(0.1), "the two differ"),
        (pair(0.1, note="known"), "known; the two differ"),
        (pair(float("nan")), "theirs ends in no number"),
        (pair(0.1, defect="off its grid"), "theirs is wrong: off its grid"),
        (pair(float("nan"), defect="NaN"), "theirs is wrong: NaN"),
        (pair(0.0, defect="off its grid"), "no longer wrong as it was"),
    ],
)
def test_the_note_says_what_is_wrong(given: Pairing, note: str) -> None:
    """And a repaired peer is noticed; a peer that is wrong is not timed."""
    (row,) = peers.rows(steps=3, repeats=1, batch=4, pairs=[given])
    assert row.note == note
    assert (row.microseconds_theirs is None) == bool(given.defect)
    json.dumps(dataclasses.asdict(row), allow_nan=False)


@pytest.mark.usefixtures("_installed")
def test_a_peer_that_fails_is_a_row_and_the_others_go_on() -> None:
    def build(steps: int) -> OurEuler:
        raise ZeroDivisionError("its own")

    first, second = peers.rows(steps=3, repeats=1, batch=4, pairs=[pair(build=build), pair()])
    assert (first.status, first.note) == ("failed", "ZeroDivisionError: its own")
    assert second.status == "ok"


@pytest.mark.usefixtures("_installed")
def test_threads_and_gradients_are_what_they_were() -> None:
    """Also between two rows, when the caller's code runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for _ in peers.rows(steps=2, repeats=1, batch=2, pairs=[pair(), pair()]):
            assert torch.get_num_threads() == 2
            assert torch.is_grad_enabled()
    finally:
        torch.set_num_threads(before)


# What is counted.


def _counted(loop: Callable[[Metered, Tensor], object], network: Any = None) -> tuple[int, int, int]:
    """Reads, operations and evaluations of a loop."""
    x = torch.randn(8, *IMAGE)
    metered = Metered(network or (lambda x: x + 1.0))
    with Counter(metered, x) as counter:
        loop(metered, x)
    return counter.reads, counter.operations, metered.evaluations


def test_operations_on_whole_states_are_counted_without_views_and_small_tensors() -> None:
    assert _counted(lambda network, x: x.view(-1)[3:].expand(2, -1)) == (0, 0, 0)
    assert _counted(lambda network, x: torch.ones(5) + 1.0) == (0, 0, 0)
    assert _counted(lambda network, x: (x + 1.0).mul_(2.0)) == (0, 2, 0)
    assert _counted(lambda network, x: torch.stack([x, x])) == (0, 1, 0)


def test_reads_by_the_host_are_counted() -> None:
    small = torch.tensor([1.0, 2.0])
    assert _counted(lambda network, x: float(small[0])) == (1, 0, 0)
    assert _counted(lambda network, x: bool(small[0] > 0)) == (1, 0, 0)
    assert _counted(lambda network, x: (small == 1.0).nonzero()) == (1, 0, 0)


def test_what_the_network_does_is_not_counted() -> None:
    def network(x: Tensor) -> Tensor:
        return x * float(x.sum())

    assert _counted(lambda network, x: network(network(x)), network) == (0, 0, 2)
    assert _counted(lambda network, x: network(x) + 1.0, network) == (0, 1, 1)


def test_time_within_the_network_is_not_overhead(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow network does not make a loop slow, a slow loop does; and candidates take turns."""
    now, order = [0.0], []
    monkeypatch.setattr(metering.time, "thread_time", lambda: now[0])

    def candidate(name: str, within: float, outside: float) -> Timed:
        def network(x: Tensor) -> Tensor:
            now[0] += within
            return x

        def start() -> tuple[Callable[[], object], Metered]:
            metered = Metered(network)

            def run() -> None:
                order.append(name)
                for _ in range(4):
                    metered(torch.zeros(1))
                    now[0] += outside

            return run, metered

        return start

    slow, fast = overheads([candidate("slow", 1.0, 0.25), candidate("fast", 16.0, 0.125)], 5, warm_up=1)
    assert slow == Spread(250_000.0, 250_000.0, 250_000.0)
    assert fast.median == 125_000.0
    assert order.count("slow") == order.count("fast") == 6
    assert {tuple(order[i : i + 2]) for i in range(0, 12, 2)} == {("slow", "fast"), ("fast", "slow")}


def test_a_spread_is_median_and_quartiles() -> None:
    assert Spread.of([3.0, 1.0, 2.0, 5.0, 4.0]) == Spread(3.0, 2.0, 4.0)
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0)


# The floor and the networks.


@pytest.mark.parametrize(
    ("bare", "ours", "path", "prediction", "operations"),
    [
        ("euler", "euler", RectifiedFlowPath(), "velocity", 1.0),
        ("euler", "euler", EDM, "epsilon", 1.0),
        ("ddim", "ddim", LinearVPPath(), "epsilon", 2.0),
        ("ddim", "euler", EDM, "x0", 2.0),
        ("2m", "dpmpp-2m", LinearVPPath(), "epsilon", 5.0),
        ("2m", "dpmpp-2m", EDM, "x0", 3.0),
    ],
)
@pytest.mark.parametrize("steps", [1, 2, 9])
def test_bare_loops_are_ours_in_few_operations(
    bare: str, ours: str, path: GaussianPath, prediction: str, operations: float, steps: int
) -> None:
    """A floor that did something else would say nothing."""
    times = grid("shared", path, steps)
    network = anisotropic().network(path, prediction)
    x = path.sigma(times[0]) * torch.randn(16, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    loop, metered = LOOPS[bare](path, prediction, times, len(x)), Metered(network)
    with Counter(metered, x) as counter:
        found = loop(metered, x)
    wanted = sampler(ours, steps)(Denoiser(network, path, prediction), x, times)
    assert float((found - wanted).abs().max()) <= 1e-4
    assert metered.evaluations == steps
    assert counter.operations / steps <= operations
    assert counter.reads == 0


def test_bare_euler_refuses_what_would_take_more_operations() -> None:
    with pytest.raises(ValueError, match="take ddim"):
        LOOPS["euler"](EDM, "x0", (0.5, 0.0), 4)


def test_the_small_network_is_small_bounded_and_the_same_each_time() -> None:
    network, x = small_network(), torch.randn(4, *IMAGE)
    assert sum(weight.numel() for weight in network.parameters()) == 115_264
    said = network(x, torch.full((4,), 0.3))
    assert said.shape == x.shape
    assert float(said.abs().max()) <= 1.0
    assert torch.equal(said, small_network()(x, torch.tensor(0.3)))
    assert not torch.equal(said, network(x, torch.full((4,), 0.4)))


def test_translations_of_a_network_ask_the_same() -> None:
    """k-diffusion gives σ for t, flow_matching 1 − t and wants the velocity turned round."""
    network, x = small_network(), torch.randn(4, *IMAGE)
    t = torch.full((4,), 0.25)
    assert torch.equal(by_noise(network, EDM)(x, 40.0 * torch.ones(4)), network(x, t))
    assert torch.equal(towards_data(network)(x=x, t=torch.tensor(0.75)), -network(x, t))


# The command.


def test_an_unknown_kind_is_refused_with_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"Unknown comparison 'sampler'\. Did you mean 'samplers'\?"):
        compare("sampler")


def test_the_command_refuses_an_unknown_kind_with_one_sentence(noisebench: Call) -> None:
    done = noisebench("peers", "sampler")
    assert done.returncode == 2
    assert done.stderr.startswith("noisebench: Unknown comparison 'sampler'.")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("as_json", [False, True])
def test_what_the_command_prints(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every column of the table, missing packages in one line, the same rows as JSON."""
    from bench.cli.peers import TABLES, show_peers

    gone = dataclasses.replace(pair(), package="gone")
    monkeypatch.setitem(peers.MODULES, "gone", "no_such_package")
    pairs = (pair(), pair(0.1, theirs="wrong", defect="off its grid"), gone, gone)
    monkeypatch.setattr(peers, "all_pairings", lambda: pairs)
    assert show_peers("samplers", as_json, steps=4, repeats=1)
    printed = capsys.readouterr().out
    if as_json:
        rows = json.loads(printed)
        assert [row["status"] for row in rows] == ["ok", "ok", "skipped", "skipped"]
        assert rows[0]["microseconds_ours"].keys() == {"median", "low", "high"}
        assert rows[0]["operations_ours"] == 1.0
        return
    assert set(TABLES) == set(KINDS)
    head, section, first, *_ = printed.splitlines()
    names = "theirs ours apart NFE µs ours µs theirs µs bare ratio reads operations"
    assert " ".join(head.split()) == names
    assert section.strip() == f"torch {metadata.version('torch')}"
    assert first.split()[:2] == ["loop", "euler"]
    assert "4 | 4" in first
    assert "1 | 1" in first
    assert "torch wrong: theirs is wrong: off its grid." in printed
    assert "gone: 2 skipped. gone is not installed: pip install 'noisebench[peers]'." in printed


@pytest.mark.usefixtures("_installed")
def test_the_command_fails_where_a_row_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.cli.peers import show_peers

    def build(steps: int) -> OurEuler:
        raise ZeroDivisionError("its own")

    monkeypatch.setattr(peers, "all_pairings", lambda: (pair(build=build),))
    assert not show_peers("samplers", False, steps=4, repeats=1)
