"""Which process of how many this one is, as torchrun, srun and mpirun say it in the environment.

Processes share nothing but the results folder. Each begins with shards of its own and then takes what is
left, so a process that dies is missed by nobody. Only those that train one model together form a group, see
`bench.drivers.group`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from bench.errors import UsageError

LAUNCHERS = {
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    "srun": ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "mpiexec": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
}
"""Variables of rank, number of processes and rank on this machine, the first that are set."""
MEETING = ("MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True)
class Place:
    """Rank of this process among `world`, and `local`, its rank on this machine, which chooses its GPU.

    meeting  host:port where processes that train together meet; empty where the launcher says none
    hosted   whether the launcher waits for them there; else rank 0 does
    attempt  how often the launcher started all of them again
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    meeting: str = ""
    hosted: bool = False
    attempt: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise UsageError(f"rank {self.rank} of {self.world} processes: ranks are 0 to {self.world - 1}.")

    @property
    def leads(self) -> bool:
        """Whether this is the process that times, writes the results and prints."""
        return self.rank == 0

    def first(self, parts: int) -> range:
        """The parts of a cell in the order in which this process takes them: its own stretch first."""
        start = self.rank * parts // self.world
        return range(start, start + parts)

    @classmethod
    def taken(cls) -> Place:
        """As the launcher says, its variables taken away: libraries would form a process group by them."""
        place = cls.of()
        for name in (*(one for names in LAUNCHERS.values() for one in names), *MEETING):
            os.environ.pop(name, None)
        return place

    @classmethod
    def of(cls, environment: Mapping[str, str] = os.environ) -> Place:
        """As the launcher says; alone without one."""
        for rank, world, local in LAUNCHERS.values():
            if rank in environment and world in environment:
                return cls(
                    _number(rank, environment),
                    _number(world, environment),
                    _number(local, environment, "0"),
                    _meeting(environment),
                    environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
                    _number("TORCHELASTIC_RESTART_COUNT", environment, "0"),
                )
        return cls()


ALONE = Place()


def _meeting(environment: Mapping[str, str]) -> str:
    host, port = (environment.get(name, "") for name in MEETING)
    return f"{host}:{_number('MASTER_PORT', environment)}" if host and port else ""


def _number(name: str, environment: Mapping[str, str], default: str = "") -> int:
    text = environment.get(name, default)
    if not text.isdigit():
        raise UsageError(
            f"{name} is {text!r}, and a launcher sets it to a whole number: unset it, or start anew."
        )
    return int(text)
