"""The reader's figures: 100,000 mutated texts, and the time of one at the 99th percentile.

Processor time is measured: other programs on the machine do not count.
"""

import math
import os
import random
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.bench.rows import Row, median, percentile
from tests.unit.reading_cases import Case, cases
from workers.core.reading import read_text

TEXTS = 100_000
LARGEST_CHARS = 1_000_000
SIZES = (1_000, 10_000, 100_000, LARGEST_CHARS)
P99_AIM_MS = 50.0
SHARES = 20
"""The texts come in so many equal shares, each with dice of its own: the same texts on any number of processors."""


def _noise(dice: random.Random) -> list[str]:
    """Lines that stand around real texts: access logs, log records, signatures, journals, other languages."""
    return [
        *(
            f'127.0.0.1 - - [12/Mar/2024:10:00:{n % 60:02d} +0000] "GET /x?id={n * 7919} HTTP/1.1" 200 612 "-" "Mozilla/5.0"'
            for n in range(300)
        ),
        *(
            f"2024-01-0{n % 9 + 1} 10:11:12,{n:03d}:DEBUG:acme.client:Storing nonce: {n * 99991:x}"
            for n in range(200)
        ),
        *(f'  "signature": "{"".join(dice.choices("aZ09_-", k=340))}"' for _ in range(20)),
        *(
            f"Jan  1 00:00:00 web01 app[1]: failed to do it: error {n} in certbot's neighbour"
            for n in range(60)
        ),
        *(f"{n}: Ошибка 証明書 échec Zertifikat \x00 \ufffd" for n in range(30)),
    ]


def mutations(count: int, seed: int = 20261124) -> Iterator[tuple[str, Case]]:
    """Yield mutated texts of failing cases: cut, interleaved, garbled, every fourth in noise of up to 1 MB.

    The sizes of those are log-uniform, so that each size has thousands; the time is judged size by size.
    """
    dice = random.Random(seed)
    noise = _noise(dice)
    pool = [case for case in cases() if case.expected["code"]]
    for number in range(count):
        case = dice.choice(pool)
        lines = case.text.split("\n")
        kind = dice.randrange(5)
        if kind == 0:
            lines = lines[dice.randrange(len(lines)) :]
        elif kind == 1:
            lines = lines[: dice.randrange(1, len(lines) + 1)]
        elif kind == 2:
            lines = [part for line in lines for part in (line, dice.choice(noise))]
        elif kind == 3:
            lines = [line[: dice.randrange(1, 160)] for line in lines]
        most = LARGEST_CHARS if number % 4 == 0 else SIZES[0]
        yield _within_noise("\n".join(lines), noise, dice, most), case


def _within_noise(text: str, noise: list[str], dice: random.Random, most: int) -> str:
    size = int(10 ** dice.uniform(2, math.log10(most))) - len(text)
    around: list[str] = []
    while size > 0:
        around.append(dice.choice(noise))
        size -= len(around[-1]) + 1
    place = dice.randrange(len(around) + 1)
    return "\n".join([*around[:place], text, *around[place:]])[:LARGEST_CHARS]


def _read_share(share: int, *, count: int) -> tuple[list[tuple[int, float]], int, int]:
    """Read one share of the texts: the length and milliseconds of each, the false successes, the crashes."""
    times: list[tuple[int, float]] = []
    successes, crashes = 0, 0
    for text, _ in mutations(count, seed=20261124 + share):
        begin = time.process_time()
        try:
            successes += read_text(text, exit_code=1).main.code is None
        except Exception:  # noqa: BLE001  # a crash is what is counted here
            crashes += 1
            traceback.print_exc()
        times.append((len(text), (time.process_time() - begin) * 1000))
    return times, successes, crashes


def run(count: int = TEXTS) -> list[Row]:
    """Read the texts: none may crash the reader or pass for success."""
    times: list[tuple[int, float]] = []
    successes, crashes = 0, 0
    with ProcessPoolExecutor(max_workers=os.cpu_count()) as processes:
        reading = partial(_read_share, count=max(1, count // SHARES))
        for some, wrong, crashed in processes.map(reading, range(SHARES)):
            times += some
            successes += wrong
            crashes += crashed
    rows = [
        Row(f"reader: crashes in {count:,} mutated texts", str(crashes), "0", crashes == 0),
        Row(f"reader: failures taken for success in {count:,}", str(successes), "0", successes == 0),
    ]
    floor = 0
    for size in SIZES:
        some = [spent for length, spent in times if floor < length <= size]
        floor = size
        if some:
            p99 = percentile(some, 0.99)
            rows.append(
                Row(
                    f"reader: p99 of {len(some):,} texts up to {size:,} characters",
                    f"{p99:.2f} ms (p50 {median(some):.2f}, longest {max(some):.2f})",
                    f"under {P99_AIM_MS:.0f} ms",
                    p99 < P99_AIM_MS,
                )
            )
    return rows
