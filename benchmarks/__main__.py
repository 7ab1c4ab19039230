"""All measurements, one after the other, each in a process of its own.

    python -m benchmarks                  # all of them; `make bench`
    python -m benchmarks scale mqtt       # some

Other libraries do not take part: `make bench-peers` has them in the table of rounds. A measurement that misses its goal, or fails,
does not keep the others from being made. Exit status 1 if any did.
"""

from __future__ import annotations

import subprocess
import sys
import time

MEASUREMENTS = {
    "simulation": ["peers=none"],
    **{
        name: [] for name in ("evaluation", "startup", "scale", "overhead", "communication", "mqtt", "split", "vertical", "scaling")
    },
}


def main(names: list[str]) -> int:
    if unknown := sorted(set(names) - set(MEASUREMENTS)):
        print(f"no such measurement: {', '.join(unknown)}; there are {', '.join(MEASUREMENTS)}", file=sys.stderr)
        return 2
    done = []
    for name in names or MEASUREMENTS:
        print(f"\n== {name}", flush=True)
        start = time.perf_counter()
        status = subprocess.run([sys.executable, "-m", f"benchmarks.{name}", *MEASUREMENTS[name]], check=False).returncode
        done.append((name, time.perf_counter() - start, status))
    print(f"\n== {sum(seconds for _, seconds, _ in done) / 60:.1f} minutes")
    for name, seconds, status in done:
        print(f"{name:<15} {seconds:5.0f} s   {'exit status ' + str(status) if status else 'all goals reached'}")
    return int(any(status for _, _, status in done))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
