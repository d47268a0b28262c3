"""Run the property tests on new examples for as long as asked, and print what was found as test cases.

Usage: ``python tests/fuzz.py DURATION [pytest options]``, for example ``python tests/fuzz.py 10m tests/planning``. Each
round is one run of pytest with a seed of its own. Exit 1 where an example failed; its ``@example`` line belongs on the
test.
Schemathesis stays out: its plugin prints failing examples without their values.
"""

import re
import secrets
import subprocess
import sys
import time
from pathlib import Path

from proteus_cli.units import parse_duration

ROOT = Path(__file__).parents[1]
FAILED = re.compile(r"^E +Failing test case: (\w+)\(\n(.*?)^E +\)$", re.MULTILINE | re.DOTALL)
NO_TESTS, PASSED = 5, 0


def test_cases(output: str) -> list[str]:
    """The failing examples in what pytest printed, each as a line to put on its test."""
    found = []
    for name, body in FAILED.findall(output):
        lines = [re.sub(r"^E *|  # or any other .*$", "", line).strip() for line in body.splitlines()]
        arguments = " ".join(line for line in lines if line).removesuffix(",")
        found.append(f"@example({arguments})  # {name}")
    return found


def main(duration: str, *options: str) -> int:
    stop_s = time.monotonic() + parse_duration(duration)
    found: set[str] = set()
    rounds = 0
    while rounds == 0 or time.monotonic() < stop_s:
        seed = secrets.randbelow(2**32)
        ended = subprocess.run(
            [
                sys.executable, "-m", "pytest", "-m", "hypothesis", "--tb=short",
                f"--hypothesis-seed={seed}", "--hypothesis-profile=new examples", *options,
            ],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        rounds += 1
        if ended.returncode not in (PASSED, NO_TESTS):
            new = set(test_cases(ended.stdout)) - found
            found |= new
            print(f"seed {seed}: exit {ended.returncode}", *sorted(new), sep="\n")
            if not new:
                print(ended.stdout[-5000:], ended.stderr[-1000:], sep="\n")
                found.add(f"seed {seed}")
    print(f"{rounds} rounds of new examples, {len(found)} failed")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
