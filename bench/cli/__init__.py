"""The command line, and the only code that prints. Torch is imported by `run` alone."""

from __future__ import annotations

import os
import sys

from bench.errors import UsageError

OK, FAILED, USAGE, REGRESSION, INTERRUPTED = 0, 1, 2, 3, 130
STOPPED = "Stopped. The same command goes on from here."


def main() -> None:
    """Entry point of `noisebench`; every foreseen error is one sentence on standard error."""
    # The profiler that counts memory writes notes of its own to the terminal; read when torch loads it.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    # Triton warns that this default will change; what must be fused is written as such.
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    import typer

    from bench.cli.app import app

    code = OK
    try:
        code = app(standalone_mode=False) or OK
        if code == INTERRUPTED:  # typer takes the interruption for its own and says nothing
            say(STOPPED, code)
    except UsageError as error:
        code = say(str(error), USAGE)
    except typer.Abort:
        code = say(STOPPED, INTERRUPTED)
    except typer.TyperException as error:
        describe = getattr(error, "format_message", error.__str__)
        code = say(describe(), USAGE)
    except KeyboardInterrupt:
        code = say(STOPPED, INTERRUPTED)
    except OSError as error:
        code = say(_disk(error), FAILED)
    sys.exit(code)


def say(message: str, code: int) -> int:
    """One sentence on standard error; returns the exit code that goes with it."""
    print(f"noisebench: {message}", file=sys.stderr)
    return code


def _disk(error: OSError) -> str:
    """A full disk or missing permission; anything else the system refuses is a defect."""
    if error.errno is None:
        raise error
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror}{where}: nothing finished was lost; put it right and run the same command again."
