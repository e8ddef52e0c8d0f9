"""Execute one notebook with papermill: a kernel of this Python, progress, and failures in a screenful."""

import contextlib
import logging
import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault("PYDEVD_DISABLE_FILE_VALIDATION", "1")  # else ipykernel's debugger warns as it is imported

import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError, strip_color

ENGINE = "tools.run"
SOURCE_LINES, REASON_LINES = 8, 24  # what a screen holds of the failing cell and of its error


class RunError(Exception):
    """What stopped a run, in sentences for the person who started it."""


def literal(path: Path) -> str:
    """Return `path` for papermill, which takes paths for format strings."""
    return str(path).replace("{", "{{").replace("}", "}}")


def short(path: Path) -> str:
    """Return `path` relative to the working directory where it lies inside."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


class _Kernel(AsyncKernelManager):
    """A kernel of the very Python that runs this, whatever kernels are registered on the machine."""

    def __init__(self, **options):
        super().__init__(**options)
        self._kernel_spec = KernelSpec(**get_kernel_dict())
        self._sockets = tempfile.TemporaryDirectory(prefix="run-", ignore_cleanup_errors=True)
        # Sockets in a folder of our own: two runs at once never pick the same port. Their paths are short.
        if os.name == "posix" and len(self._sockets.name) < 80:
            self.transport, self.ip = "ipc", str(Path(self._sockets.name) / "kernel")

    async def start_kernel(self, **options):
        """Start the kernel; what it says itself, beside the cells' outputs, stays off the screen."""
        await super().start_kernel(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)


class _Engine(NBClientEngine):
    """papermill's engine, which also reports each cell as it starts."""

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, progress=None, **options):
        start = nb_man.cell_start
        progress.total = sum(is_run(cell) for cell in nb_man.nb.cells)

        def cell_start(cell, *position, **more):
            if is_run(cell):
                progress.next_cell(cell.source)
            start(cell, *position, **more)

        nb_man.cell_start = cell_start
        super().execute_managed_notebook(nb_man, kernel_name, kernel_manager_class=_Kernel, **options)


papermill_engines.register(ENGINE, _Engine)


def is_run(cell) -> bool:
    """Return whether Jupyter runs `cell` and counts it: a code cell that is not empty."""
    return cell.cell_type == "code" and bool(cell.source.strip())


class Progress:
    """What the terminal shows of one notebook: the cell that runs, and the lines of training as they come."""

    def __init__(self, label: str):
        self.label, self.total, self.cell, self.source, self.rest = label, 0, 0, "", ""
        self.live = sys.stdout.isatty()
        print(label if self.live else label.rstrip(), end="" if self.live else "\n", flush=True)

    def next_cell(self, source: str) -> None:
        """Note that the next cell has started."""
        self.cell, self.source = self.cell + 1, source
        self.show(f"cell {self.cell} of {self.total}")

    def show(self, status: str, last: bool = False) -> None:
        """Show `status` after the label: in place on a terminal, elsewhere only the last one."""
        if self.live:
            print(f"\r{self.label}  {status:<40}", end="\n" if last else "", flush=True)
        elif last:
            print(f"{self.label}  {status}", flush=True)

    def write(self, text: str) -> None:
        """Take what cells print, in pieces as the kernel sends them."""
        *lines, self.rest = (self.rest + text).split("\n")
        for line in lines:
            if line.startswith("epoch "):
                print(f"\r{'':<78}\r" * self.live + f"    {line}", flush=True)

    def flush(self) -> None:
        """Do nothing: papermill wants a file, and files have this."""


@contextlib.contextmanager
def _quiet():
    """Keep the libraries' warnings and logs off the screen: what a user needs, the runner says itself."""
    # For good: what an interrupted cell leaves behind, asyncio reports only when Python clears it away.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    loggers = [logging.getLogger(name) for name in ("papermill", "traitlets")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


def execute(notebook: Path, output: Path, parameters: dict, timeout: int | None, progress: Progress) -> None:
    """Execute `notebook` into `output`; raises RunError with a screenful that says where and why it failed.

    papermill's own verdict is not taken: it calls a notebook completed whose kernel died, or whose cell took
    too long, or that left early with sys.exit(0).
    """
    line = 0
    try:
        with _quiet():
            done = papermill.execute_notebook(
                literal(notebook), literal(output), parameters, engine_name=ENGINE, kernel_name="python3",
                language="python", progress_bar=False, stdout_file=progress, cwd=notebook.parent,
                execution_timeout=timeout, progress=progress)
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
        reason = "The notebook's kernel died. Often the machine ran out of memory: try a smaller batch_size."
        if not progress.cell:
            reason = f"The kernel did not start ({error}). Does `{sys.executable} -m ipykernel -h` work?"
    except OSError as error:
        reason = f"Could not write {output}: {error.strerror or error}."
    raise RunError(_screen(notebook, output, progress, line, reason))


def _reason(error: PapermillExecutionError) -> tuple[str, int]:
    """Return the error's last line, without library frames, and the line of the cell (or 0)."""
    if error.ename == "KeyboardInterrupt":
        raise KeyboardInterrupt from None
    reason = error.evalue if error.ename == "SystemExit" else f"{error.ename}: {error.evalue}"
    if error.ename == "ModuleNotFoundError":
        reason += "\nInstall what the notebooks need: python -m pip install -r requirements/core.txt"
    trace = strip_color("\n".join(error.traceback))
    # IPython 7, which Colab has, only marks the line with an arrow.
    inside = re.search(r"Cell In\s*\[\d+\], line (\d+)", trace) or re.search(r"(?m)^-+> (\d+) ", trace)
    return reason, int(inside[1]) if inside else 0


def _screen(notebook: Path, output: Path, progress: Progress, line: int, reason: str) -> str:
    """Return the report of a failure: notebook, cell, its lines around `line`, the error, what to do."""
    source, reasons = progress.source.strip().splitlines(), reason.strip().splitlines()
    first = max(0, line - SOURCE_LINES)
    shown = [f"  {'>' if number == line else ' '} {text}" for number, text in enumerate(source, 1)]
    where = f"cell {progress.cell} of {progress.total}" if progress.cell else "its start"
    return "\n".join([
        f"Notebook {notebook.stem} failed in {where}:", "",
        *shown[first:first + SOURCE_LINES], *["    ..."] * (len(source) > first + SOURCE_LINES), "",
        *reasons[:REASON_LINES], *["..."] * (len(reasons) > REASON_LINES), "",
        f"The notebook up to there is {short(output)}.",
        "The same command runs it again and keeps what was finished before it."])
