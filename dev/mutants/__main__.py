"""`python -m dev.mutants [ID OR FILE]`: plant the faults, or those that match; say who noticed."""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from dev import mutants


def main(argv: list[str] | None = None) -> int:
    """Return 0 when every mutant was noticed, else 1."""
    parser = argparse.ArgumentParser("python -m dev.mutants",
                                     description=mutants.__doc__.partition("\n")[0])
    parser.add_argument("only", nargs="?", default="", help="part of an id or file; else all")
    parser.add_argument("-n", type=int, default=min(4, os.cpu_count() or 1), help="at a time")
    options = parser.parse_args(argv)
    chosen = [mutant for mutant in mutants.table(options.only) if not mutant.equivalent]
    if not chosen:
        parser.error(f"no mutant matches {options.only!r}.")
    tests = tuple(sorted({name for mutant in chosen for name in mutant.tests}))
    print(f"without a fault: {', '.join(tests)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        at_once = ("-n", str(options.n), "--dist", "loadscope")
        failed, seconds = mutants.run_tests(mutants.copy_files(Path(place)), (*tests, *at_once),
                                            timeout=3600)
    if failed:
        print(f"{failed} fails without any fault: repair that first.", file=sys.stderr)
        return 1
    print(f"all pass in {seconds:.0f} s", flush=True)
    begun = time.monotonic()
    survivors = mutants.run(chosen, options.n)
    kills = Counter(mutant.file for mutant in chosen)
    lost = Counter(mutant.file for mutant in survivors)
    for file, planted in sorted(kills.items()):
        print(f"{file:44} {planted:3} planted, {planted - lost[file]:3} noticed")
    minutes = (time.monotonic() - begun) / 60
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} noticed in {minutes:.0f} minutes")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
