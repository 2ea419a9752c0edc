"""How long a person waits for `certpilot --help`."""

import subprocess
import time

from tests.bench.rows import Row, median
from tests.support.installation import CERTPILOT

RUNS = 15
AIM_MS = 150


def run() -> list[Row]:
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run([CERTPILOT, "--help"], stdout=subprocess.DEVNULL, check=True)
        times.append((time.perf_counter() - began) * 1000)
    return [Row("certpilot --help", f"{median(times):.0f} ms", f"< {AIM_MS} ms", median(times) < AIM_MS)]
