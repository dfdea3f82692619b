"""Compares s3storage with ZEO's own server, and measures it on a slow bucket.

    python test/bench/run.py --binary bin/s3storage >> doc/performance.md

needs a Python that has ZEO (pip install ZEO). Both servers keep their data under
--directory, so that both pay for the same disk, and are measured by turns in one
run: the ratios mean more than the numbers, which depend on the machine. What is
printed is Markdown.

--quick takes some 40 seconds and is good enough to see that everything works.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
PUT = 30  # ms


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=str(ROOT / "bin" / "s3storage"),
                        help="the s3storage to measure (default: bin/s3storage)")
    parser.add_argument("--python", default=sys.executable,
                        help="the Python to run ZEO's server with (default: this one)")
    parser.add_argument("--directory", help="where to keep data (default: a temporary directory)")
    parser.add_argument("--duration", type=int, default=20, help="seconds for each figure")
    parser.add_argument("--quick", action="store_true", help="4 seconds for each figure")
    options = parser.parse_args()
    if options.quick:
        options.duration = 4
    return options


@contextlib.contextmanager
def running(command, log):
    """Run a server, and end it with SIGTERM."""
    with open(log, "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(what, process, log, condition):
    for _ in range(600):
        value = condition()
        if value:
            return value
        if process.poll() is not None:
            break
        time.sleep(0.05)
    sys.exit(f"{what} did not start:\n{pathlib.Path(log).read_text()}")


@contextlib.contextmanager
def s3storage(options, directory, *more):
    """Serve a new database, and give its address and its log."""
    log = directory / "s3storage.log"
    command = [options.binary, "serve", "--bucket", str(directory / "bucket"),
               "--listen", "127.0.0.1:0", *more]
    with running(command, log) as process:
        address = wait_for("s3storage", process, log, lambda: re.search(
            r"^listening on (\S+)$", log.read_text(), re.M))
        yield address[1], log


@contextlib.contextmanager
def reference(options, directory):
    """Serve a new database with ZEO's own server."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log = directory / "zeo.log"
    command = [options.python, "-m", "ZEO.runzeo", "-a", f"127.0.0.1:{port}",
               "-f", str(directory / "Data.fs")]
    with running(command, log) as process:
        wait_for("ZEO's server", process, log, lambda: "listening on" in log.read_text())
        yield f"127.0.0.1:{port}"


def place(options):
    """A new directory. All of them are removed together, at the end."""
    return pathlib.Path(tempfile.mkdtemp(dir=options.directory))


def bench(options, workload, address, *more):
    command = [options.binary, "bench", workload, "--address", address,
               "--duration", f"{options.duration}s", "--json", *more]
    result = subprocess.run(command, stdout=subprocess.PIPE)
    if result.returncode:
        sys.exit(f"{' '.join(command)}: status {result.returncode}")
    return json.loads(result.stdout)


def ms(value):
    return f"{value:.3g} ms"


COMPARED = [
    ("commits, 1 client", "commit", ["--clients", "1"], 1),
    ("commits, 32 clients", "commit", ["--clients", "32"], 10),
    ("loads, 64 under way", "load", ["--pipeline", "64"], 5),
]


def compare(options):
    print("| 3 objects of 1 kB in a transaction | s3storage | median | ZEO's server | median "
          "| ratio | rounds | goal |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, workload, more, goal in COMPARED:
        directory = place(options)
        with reference(options, directory) as theirs, s3storage(options, directory) as (ours, _):
            r = bench(options, workload, ours, "--vs", theirs, *more)
        cells = []
        for side in r["server"], r["versus"]:
            series = side["figures"]["commits" if workload == "commit" else "loads"]
            cells += [f"{series['per_second']:.0f}/s", ms(series["p50_ms"])]
        ratio = r["ratio"]
        print(f"| {name} | {' | '.join(cells)} | **{ratio['median']:.2f}** "
              f"| {ratio['min']:.2f} to {ratio['max']:.2f} | {goal} |", flush=True)


def operations(log):
    """How often the server did what, from what it says when it stops."""
    line = [line for line in log.read_text().splitlines() if "closed database" in line][-1]
    return {word: int(n) for word, n in re.findall(r"(\S+)=(\d+)(?= |$)", line)}


def slow_bucket(options):
    print(f"| every put takes {PUT} ms | commits | median | of a put | p99 | puts per commit | goal |")
    print("|---|--:|--:|--:|--:|--:|---|")
    inject = f"put-if-absent.delay=1:{PUT}ms,put.delay=1:{PUT}ms"
    for clients, goal in [(1, "median at most 1.15 puts"),
                          (64, "median at most 1.3 puts, at most 0.15 puts per commit, 1500/s")]:
        directory = place(options)
        with s3storage(options, directory):
            pass  # it makes the database, and probes the bucket, with many puts
        with s3storage(options, directory, "--inject", inject) as (address, log):
            r = bench(options, "commit", address, "--clients", str(clients))
        done = operations(log)
        c = r["server"]["figures"]["commits"]
        puts = done.get("put-if-absent", 0) + done.get("put", 0)
        print(f"| {clients} client{'s' * (clients > 1)} | {c['per_second']:.0f}/s "
              f"| {ms(c['p50_ms'])} | {c['p50_ms'] / PUT:.2f} | {ms(c['p99_ms'])} "
              f"| {puts / done['commits']:.3f} | {goal} |", flush=True)


def main():
    options = arguments()
    versions = subprocess.run(
        [options.python, "-c", "import importlib.metadata as m, sys;"
         "print(sys.version.split()[0], m.version('ZEO'), m.version('ZODB'))"],
        stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    print(f"{os.cpu_count()} processors, shared by server and clients; "
          f"{platform.system()} {platform.machine()}; Python {versions[0]}, "
          f"ZEO {versions[1]}, ZODB {versions[2]}; {options.duration} s for each figure.\n")
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.directory) as root:
        # For minutes after thousands of files were removed nearby, ext4 takes
        # twice as long to make new ones. This spreads directories over the disk.
        if shutil.which("chattr"):
            subprocess.run(["chattr", "+T", root], stderr=subprocess.DEVNULL)
        options.directory = root
        compare(options)
        print()
        slow_bucket(options)


if __name__ == "__main__":
    main()
