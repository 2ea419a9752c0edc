#!/usr/bin/python3 -SE
"""A stand-in for certbot on the PATH of the agent script: it logs its start and end, and does what STANDIN_* say.

STANDIN_LOG     file for the lines `start ARGV` and `end`; beside this program `standin.log` when unset
STANDIN_SECONDS how long it runs
STANDIN_EXIT    its exit code
STANDIN_DAEMON  start a child that outlives it, as a deploy hook may
STANDIN_STDOUT, STANDIN_STDERR  what it prints before it waits
STANDIN_DEBUG   what it appends to its debug log in --logs-dir; STANDIN_ROTATE=1: after moving the old one to .1
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

env = os.environ.get
log = Path(env("STANDIN_LOG") or Path(__file__).with_name("standin.log"))


def write(line: str) -> None:
    with log.open("a") as file:
        file.write(line + "\n")


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    write("start " + json.dumps(sys.argv[1:]))
    if env("STANDIN_DAEMON"):
        subprocess.Popen(["sleep", "5"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if "--logs-dir" in sys.argv and env("STANDIN_DEBUG"):
        folder = Path(sys.argv[sys.argv.index("--logs-dir") + 1])
        folder.mkdir(parents=True, exist_ok=True)
        debug = folder / "letsencrypt.log"
        if env("STANDIN_ROTATE") and debug.exists():
            debug.rename(folder / "letsencrypt.log.1")
        with debug.open("a") as file:
            file.write(env("STANDIN_DEBUG", ""))
    sys.stdout.write(env("STANDIN_STDOUT", ""))
    sys.stdout.flush()
    sys.stderr.write(env("STANDIN_STDERR", ""))
    sys.stderr.flush()
    try:
        time.sleep(float(env("STANDIN_SECONDS", "0")))
    finally:
        write("end")
    return int(env("STANDIN_EXIT", "0"))


sys.exit(main())
