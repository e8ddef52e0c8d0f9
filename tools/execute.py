"""Execute one notebook with papermill: a kernel of this Python, progress, and short reports."""

import logging
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

# Otherwise ipykernel's debugger warns as it is imported.
os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")

import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError, strip_color

SOURCE_LINES, REASON_LINES = 8, 24  # of the failing cell and of its error: they fit on a screen


class RunError(Exception):
    """What stopped a run, in sentences for the person who started it."""


def literal(path: Path) -> str:
    """Return `path` for papermill, which takes paths for format strings."""
    return str(path).replace("{", "{{").replace("}", "}}")


def short(path: Path) -> str:
    """Return `path` relative to the working directory if it is inside."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def guarded(command: Callable[[], int]) -> int:
    """Return the exit code of a command: its own, 1 after a RunError, 130 if interrupted."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character stops nothing
    try:
        return command()
    except RunError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command continues from here: what is finished is kept, and "
              "training resumes at its last finished epoch.", file=sys.stderr)
        return 130


class _Kernel(AsyncKernelManager):
    """A kernel of the Python that runs this, whatever kernels are registered on the machine."""

    def __init__(self, **options):
        super().__init__(**options)
        self._kernel_spec = KernelSpec(**get_kernel_dict())
        # Sockets in a folder of our own: two runs at once never pick the same port.
        self._sockets = tempfile.TemporaryDirectory(prefix="run-", ignore_cleanup_errors=True)
        if os.name == "posix" and len(self._sockets.name) < 80:  # a socket's path must be short
            self.transport, self.ip = "ipc", str(Path(self._sockets.name) / "kernel")

    async def start_kernel(self, **options):
        """Start the kernel; what it prints itself, besides the cells' outputs, is not shown."""
        await super().start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)


def is_run(cell) -> bool:
    """Return whether Jupyter runs `cell` and counts it: a code cell that is not empty."""
    return cell.cell_type == "code" and bool(cell.source.strip())


class _Epochs:
    """A file for papermill, which writes what cells print: shows the lines of training."""

    rest = ""

    def write(self, text: str) -> None:
        *lines, self.rest = (self.rest + text).split("\n")  # the kernel sends text in pieces
        for line in lines:
            if line.startswith("epoch "):
                clear = f"\r{'':<78}\r" if sys.stdout.isatty() else ""  # papermill's bar
                print(f"{clear}    {line}", flush=True)

    def flush(self) -> None:
        pass


def execute(notebook: Path, output: Path, parameters: dict, timeout: int | None) -> None:
    """Execute `notebook` into `output`; raises RunError that says in a screenful what failed.

    papermill's own verdict is not enough: it calls a notebook completed whose kernel died, whose
    cell took too long, or that left early with sys.exit(0).
    """
    for name in ("asyncio", "papermill", "traitlets"):  # the runner reports what a user needs
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    bar = {"desc": notebook.stem, "leave": False} if sys.stdout.isatty() else False
    line = 0
    try:
        with warnings.catch_warnings(action="ignore"):
            done = papermill.execute_notebook(
                literal(notebook), literal(output), parameters, kernel_name="python3",
                language="python", kernel_manager_class=_Kernel, cwd=notebook.parent,
                execution_timeout=timeout, stdout_file=_Epochs(), progress_bar=bar)
        if all(cell.execution_count for cell in done.cells if is_run(cell)):
            return
        reason = "The cell ended the notebook before its last cell."
    except PapermillExecutionError as error:
        reason, line = _reason(error)
    except CellTimeoutError:
        reason = f"The cell ran longer than {timeout} seconds (--timeout) and was stopped."
    except (DeadKernelError, RuntimeError) as error:
        if "Kernel died" not in str(error):
            raise
        reason = ("The notebook's kernel died or did not start. Often the machine ran out of "
                  "memory: try a smaller batch_size.")
    except OSError as error:
        raise RunError(f"Could not write {output}: {error.strerror or error}.") from None
    raise RunError(_report(notebook, output, line, reason))


def _reason(error: PapermillExecutionError) -> tuple[str, int]:
    """Return what the error says, without library frames, and the line of the cell (or 0)."""
    if error.ename == "KeyboardInterrupt":
        raise KeyboardInterrupt from None
    reason = error.evalue if error.ename == "SystemExit" else f"{error.ename}: {error.evalue}"
    if error.ename == "ModuleNotFoundError":
        reason += "\nInstall the packages: python -m pip install -r requirements/core.txt"
    trace = strip_color("\n".join(error.traceback))
    # IPython 7, which Colab has, only marks the line with an arrow.
    found = re.search(r"Cell In\s*\[\d+\], line (\d+)|^-+> (\d+) ", trace, re.MULTILINE)
    return reason, int(found[1] or found[2]) if found else 0


def _report(notebook: Path, output: Path, line: int, reason: str) -> str:
    """Return the report of a failure: notebook, cell, its lines up to `line`, error, remedy."""
    cells = [cell for cell in nbformat.read(output, as_version=4).cells if is_run(cell)]
    begun = [cell for cell in cells if cell.metadata.get("papermill", {}).get("start_time")]
    lines = begun[-1].source.strip().splitlines() if begun else []
    shown = [f"  {'>' if number == line else ' '} {text}" for number, text in enumerate(lines, 1)]
    first = max(0, line - SOURCE_LINES)
    return "\n".join([
        f"Notebook {notebook.stem} failed in cell {len(begun)} of {len(cells)}:", "",
        *shown[first:first + SOURCE_LINES], "",
        *reason.strip().splitlines()[:REASON_LINES], "",
        f"The notebook up to there is {short(output)}.",
        "The same command runs it again and keeps what was finished before it."])
