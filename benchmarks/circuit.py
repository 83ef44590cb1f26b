"""What a circuit lets through, before and after: simulated on a clock of its own, and measured on loopback.

    python benchmarks/circuit.py [--only simulate,faults,outage,poison] [--checkout DIR ...] [--n 10000]

simulate  calls of 10,000 that reach an upstream which answers a share of them, by rate; a fake clock, seeded
faults    requests to `auto` where the first expert answers 500 to 20 % and the second is good
outage    requests to `auto` where all three experts are dead in one way: upstream calls per client call
poison    one client sends bad requests of one kind, another asks `auto` right after: who answers?

Each checkout is served by a process of its own; compare with a worktree of an older commit. All load stays on
loopback and is bounded.
"""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parents[1]
SEED = 7
CONCURRENCY = 32
FIRST_PORT = int(os.environ.get("BENCH_PORT", "25000"))
SHARES = (1.0, 0.9, 0.8, 0.6, 0.4, 0.2, 0.0)
RATES = (0.2, 1.0, 20.0, 1000.0)


# -- simulation


def simulate(checkout: Path, n: int) -> None:
    """Print how many calls reach an upstream that answers a share of them; the others go to a fallback."""
    code = f"import sys; sys.argv = ['simulate', '{n}']\n" + SIMULATION
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    print(done.stdout, end="")


SIMULATION = f"""
import heapq, random
from gateway.errors import UpstreamError
from gateway.fleet.health import FleetState
N, SHARES, RATES = int(sys.argv[1]), {SHARES}, {RATES}
ERROR = UpstreamError("status", "answered 500", status=500)

def run(share, rate, n_at_once, seed):
    # Open loop: a request every 1/rate seconds. An error comes after 5 ms, an answer after one second.
    draw, now = random.Random(seed), 0.0
    fleet = FleetState(["a"], {{"a": None}}, lambda: now)
    new = hasattr(fleet, "retries")
    ends, n_called = [], 0
    for n in range(N):
        now = n / rate
        while ends and ends[0][0] <= now:
            at, k, is_good = heapq.heappop(ends)
            now = at
            more = (None, {{"messages": b'"%d"' % k}}) if new else ()
            if is_good:
                fleet.record_success("a", 1.0, *more)
            else:
                fleet.record_failure("a", ERROR, *((0.005, *more) if new else ()))
        now = n / rate
        if fleet.admit("a", *((None, {{"messages": b'"%d"' % n}}) if new else ())):
            n_called += 1
            is_good = draw.random() < share
            heapq.heappush(ends, (now + (1.0 if is_good else 0.005), n, is_good))
    return n_called

print("healthy    " + "".join(f"{{rate:>10g}}/s" for rate in RATES))
for share in SHARES:
    row = [sum(run(share, rate, 1, seed) for seed in range(3)) // 3 for rate in RATES]
    print(f"{{share:7.0%}}    " + "".join(f"{{n:>12,}}" for n in row))
"""
