#!/usr/bin/env python3
"""Searches every state of the models of the notification handshakes for a wake-up that is lost.

A model must be free of errors as it is, and must be found wrong without any one of its four fences and with its event
arithmetic broken: a test that cannot fail is no test. Prints one line per case; docs/models.md says what is modelled.
"""

import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
FENCES = {1: "driver's publish", 2: "driver's arm", 3: "device's publish", 4: "device's arm"}
VARIANTS = {
    "packed, descriptor events": ("packed.pml", ("EVENT_IDX", "IN_ORDER"), ("BREAK_EVENT", "BREAK_WRAP")),
    "packed, flags": ("packed.pml", ("IN_ORDER",), ()),
    "split, event index": ("split.pml", ("EVENT_IDX",), ("BREAK_EVENT",)),
    "split, flags": ("split.pml", (), ()),
}
DEPTH = 5_000_000  # a search that goes deeper is refused, not cut short
LIMIT_SECONDS = 240
AT_ONCE = 2


@dataclass(frozen=True)
class Case:
    """One model with its macros, and whether it is right."""

    name: str
    model: str
    macros: tuple
    is_right: bool


def cases():
    """Every variant as it is, then every one with something missing; the longest searches first."""
    for name, (model, macros, _) in VARIANTS.items():
        yield Case(name, model, macros, True)
    for name, (model, macros, mutations) in VARIANTS.items():
        for number, place in FENCES.items():
            yield Case(f"{name}, no fence in the {place}", model, (*macros, f"MISSING={number}"), False)
        for mutation in mutations:
            yield Case(f"{name}, {mutation}", model, (*macros, mutation), False)


def run(argv, folder):
    """Runs one program to its end and returns what it printed; a failure raises with that."""
    result = subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(argv)}: exit code {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


def search(case):
    """Returns (the search found an error of the kind we look for, how many states it saw)."""
    with tempfile.TemporaryDirectory(prefix="causeway-model-") as folder:
        defines = [f"-D{macro}" for macro in case.macros]
        # Spin leaves macros to the C preprocessor, which looks for included files beside the model.
        run(["spin", *defines, "-a", str(FOLDER / case.model)], folder)
        run(["cc", "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", "-o", "pan", "pan.c"], folder)
        report = run(["./pan", f"-m{DEPTH}", "-w24"], folder)
    errors = re.search(r"errors: (\d+)", report)
    states = re.search(r"(\d+) states, stored", report)
    if not errors or not states or "search depth too small" in report:
        raise RuntimeError(f"the search was not complete:\n{report}")
    lost_wake_up = "invalid end state (" in report
    if int(errors[1]) and not lost_wake_up:
        raise RuntimeError(f"an error that is no lost wake-up:\n{report}")
    return lost_wake_up, int(states[1])


def check(case):
    """Prints a line on the case; returns whether it came out as it should."""
    began = time.monotonic()
    try:
        lost, states = search(case)
        outcome = "loses a wake-up" if lost else "loses none"
        is_good = lost != case.is_right
    except (RuntimeError, subprocess.TimeoutExpired) as error:
        outcome, states, is_good = f"not searched: {error}", 0, False
    verdict = "ok  " if is_good else "FAIL"
    print(f"{verdict} {time.monotonic() - began:5.1f} s {states:>9} states  {case.name}: {outcome}", flush=True)
    return is_good


def main():
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = list(pool.map(check, cases()))
    print(f"{sum(results)} of {len(results)} models came out as they should")
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
