"""Compares s3storage with ZEO's own server, and measures it alone where ZEO's has
no counterpart.

    python test/bench/run.py --binary bin/s3storage >> doc/performance.md
    python test/bench/run.py blobs pack

needs a Python that has ZEO (pip install ZEO), and .tools/versitygw for blobs. Both
servers keep their data under --directory, so that both pay for the same disk, and
are measured by turns in one run: the ratios mean more than the numbers, which
depend on the machine. What is printed is Markdown. It takes some 25 GB there.

--quick takes two minutes and is good enough to see that everything works.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import re
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.append(str(ROOT / "test" / "interop"))

import harness  # noqa: E402
import wire  # noqa: E402

PUT = 30  # ms


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="SECTION",
                        help=f"what to measure (default: all): {', '.join(SECTIONS)}")
    parser.add_argument("--binary", default=str(ROOT / "bin" / "s3storage"),
                        help="the s3storage to measure (default: bin/s3storage)")
    parser.add_argument("--python", default=sys.executable,
                        help="the Python to run ZEO's server with (default: this one)")
    parser.add_argument("--directory", help="where to keep data (default: a temporary directory)")
    parser.add_argument("--duration", type=int, default=20, help="seconds for each figure")
    parser.add_argument("--quick", action="store_true", help="4 seconds for each figure, and small databases")
    options = parser.parse_args()
    options.sections = options.sections or list(SECTIONS)
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"no such section: {', '.join(unknown)}")
    options.blob, options.rounds = 10**9, 5
    options.transactions, options.objects = 10**6, 200_000
    if options.quick:
        options.duration = 4
        options.blob, options.rounds = 10**8, 2
        options.transactions, options.objects = 20_000, 5_000
    return options


@contextlib.contextmanager
def running(command, log, environment=None):
    """Run a server, and end it with SIGTERM."""
    with open(log, "w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out,
                                   env=os.environ | (environment or {}))
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


class Running:
    """A server that was started."""

    def __init__(self, process, address, log):
        self.process, self.address, self.log = process, address, log

    def status(self, field):
        """A figure of the process, in MB."""
        text = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB$", text, re.M)[1]) * 1024 / 1e6

    def forget_peak(self):
        """Have VmHWM start again from what the process takes now."""
        pathlib.Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")


@contextlib.contextmanager
def s3storage(options, directory, *more, bucket=None, environment=None):
    """Serve a database, which is made unless it is there."""
    log = directory / "s3storage.log"
    command = [options.binary, "serve", "--bucket", bucket or str(directory / "bucket"),
               "--listen", "127.0.0.1:0", *more]
    with running(command, log, environment) as process:
        address = wait_for("s3storage", process, log, lambda: re.search(
            r"^listening on (\S+)$", log.read_text(), re.M))
        yield Running(process, address[1], log)


CONFIGURATION = """
<zeo>
  address 127.0.0.1:{port}
</zeo>
<blobstorage 1>
  blob-dir {directory}/blobs
  <filestorage>
    path {directory}/Data.fs
  </filestorage>
</blobstorage>
"""


@contextlib.contextmanager
def reference(options, directory):
    """Serve a new database with ZEO's own server."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log, configuration = directory / "zeo.log", directory / "zeo.conf"
    configuration.write_text(CONFIGURATION.format(port=port, directory=directory))
    command = [options.python, "-m", "ZEO.runzeo", "-C", str(configuration)]
    with running(command, log) as process:
        wait_for("ZEO's server", process, log, lambda: "listening on" in log.read_text())
        yield Running(process, f"127.0.0.1:{port}", log)


def place(options):
    """A new directory. All of them are removed together, at the end."""
    return pathlib.Path(tempfile.mkdtemp(dir=options.directory))


def bench(options, workload, address, *more):
    command = [options.binary, "bench", workload, "--address", address,
               "--duration", f"{options.duration}s", "--json", *more]
    return answer(command)


def stock(options, what, *arguments):
    """Have a stock Python client do something."""
    return answer([options.python, str(HERE / "stock_client.py"), what, *map(str, arguments)])


def answer(command):
    result = subprocess.run(command, stdout=subprocess.PIPE)
    if result.returncode:
        sys.exit(f"{' '.join(command)}: status {result.returncode}")
    return json.loads(result.stdout)


def ms(value):
    return f"{value:.3g} ms"


COMPARED = [
    ("commits, 1 client", "commit", ["--clients", "1"], 1),
    ("commits, 32 clients", "commit", ["--clients", "32"], 10),
    ("loads of hot objects, 64 under way", "load", ["--pipeline", "64"], 5),
    ("the same, of objects undone and done again 3 times, beside 8 writers that "
     "change them, store blobs and undo", "load",
     ["--pipeline", "64", "--undone", "3", "--writers", "8"], 5),
]


def compare(options):
    print("| 3 objects of 1 kB in a transaction | s3storage | median | ZEO's server | median "
          "| ratio | rounds | goal |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    beside = []
    for name, workload, more, goal in COMPARED:
        directory = place(options)
        with reference(options, directory) as theirs, s3storage(options, directory) as ours:
            r = bench(options, workload, ours.address, "--vs", theirs.address, *more)
        cells = []
        for side in r["server"], r["versus"]:
            series = side["figures"]["commits" if workload == "commit" else "loads"]
            cells += [f"{series['per_second']:.0f}/s", ms(series["p50_ms"])]
            if "commits_beside" in side["figures"]:
                beside.append(f"{side['figures']['commits_beside']['per_second']:.0f}/s")
        ratio = r["ratio"]
        print(f"| {name} | {' | '.join(cells)} | **{ratio['median']:.2f}** "
              f"| {ratio['min']:.2f} to {ratio['max']:.2f} | {goal} |", flush=True)
    print(f"\nThe 8 writers committed {' and '.join(beside)}.")


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
        with s3storage(options, directory, "--inject", inject) as ours:
            r = bench(options, "commit", ours.address, "--clients", str(clients))
        done = operations(ours.log)
        c = r["server"]["figures"]["commits"]
        puts = done.get("put-if-absent", 0) + done.get("put", 0)
        print(f"| {clients} client{'s' * (clients > 1)} | {c['per_second']:.0f}/s "
              f"| {ms(c['p50_ms'])} | {c['p50_ms'] / PUT:.2f} | {ms(c['p99_ms'])} "
              f"| {puts / done['commits']:.3f} | {goal} |", flush=True)


def speed(size, seconds):
    return f"{size / 1e6 / seconds:.0f} MB/s"


def ratio_cells(rounds):
    return f"**{statistics.median(rounds):.2f}** | {min(rounds):.2f} to {max(rounds):.2f}"


def blobs(options):
    size = options.blob
    print(f"| a blob of {size / 1e9:g} GB | s3storage | ZEO's server | ratio | rounds | goal |")
    print("|---|--:|--:|--:|--:|--:|")
    took = {way: ([], []) for way in ("up", "up and on the disk", "down")}
    peaks = [0, 0]
    for n in range(options.rounds):
        for side in (0, 1) if n % 2 else (1, 0):
            # In an empty directory, and with the space of the last one free again:
            # a virtual disk takes what it has never held several times slower.
            directory = place(options)
            with (s3storage, reference)[side](options, directory) as server:
                done = stock(options, "blob", server.address, size, directory)
                peaks[side] = max(peaks[side], server.status("VmHWM"))
            shutil.rmtree(directory)
            os.sync()
            for way in took:
                took[way][side].append(done[way])
    for way, (mine, other) in took.items():
        print(f"| stock Python client, {way} | {speed(size, statistics.median(mine))} "
              f"| {speed(size, statistics.median(other))} "
              f"| {ratio_cells([b / a for a, b in zip(mine, other)])} | 0.8 |", flush=True)
    directory = place(options)
    with reference(options, directory) as theirs, s3storage(options, directory) as ours:
        for way, workload in ("up", "upload"), ("down", "download"):
            # Each turn takes one blob, however long that is.
            r = bench(options, workload, ours.address, "--vs", theirs.address, "--size", str(size),
                      "--warmup", "0s", "--slice", "1ms", "--duration", f"{options.rounds}ms")
            series = [r[side]["figures"]["commits" if way == "up" else "loads"]
                      for side in ("server", "versus")]
            print(f"| Go client, {way} | {' | '.join(speed(size * s['per_second'], 1) for s in series)} "
                  f"| {ratio_cells(r['rounds'])} | 0.8 |", flush=True)
        peaks = [max(p, s.status("VmHWM")) for p, s in zip(peaks, (ours, theirs))]
    print(f"| memory of the server at its peak | {peaks[0]:.0f} MB | {peaks[1]:.0f} MB | | | 200 MB |")
    shutil.rmtree(directory)
    blobs_over_s3(options)


def blobs_over_s3(options):
    directory = place(options)
    gateway = harness.Gateway(directory)
    try:
        with s3storage(options, directory, bucket=gateway.url("blobs"), environment={
                "AWS_ACCESS_KEY_ID": harness.ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": harness.SECRET_KEY}) as ours:
            done = [stock(options, "blob", ours.address, options.blob, directory)
                    for _ in range(options.rounds)]
            peak = ours.status("VmHWM")
    finally:
        gateway.stop()
    up, down = (speed(options.blob, statistics.median(d[way] for d in done)) for way in ("up", "down"))
    print(f"\nOver S3, versitygw on the same machine, with the stock client: {up} up, {down} down; "
          f"memory at its peak {peak:.0f} MB.", flush=True)
    shutil.rmtree(directory)


def undo(options):
    directory = place(options)
    with s3storage(options, directory) as ours:
        answer([options.binary, "bench", "commit", "--address", ours.address, "--clients", "64",
                "--objects", "1", "--size", "100", "--working-set", str(options.transactions // 4),
                "--warmup", "0s", "--duration", "1h", "--transactions", str(options.transactions), "--json"])
    start = time.perf_counter()
    with s3storage(options, directory) as ours:
        opened = time.perf_counter() - start
        resident = ours.status("VmRSS")
        took = [stock(options, "undo", ours.address) for _ in range(options.rounds)]
    print(f"A database of {options.transactions:,} transactions, of one object each: opened in "
          f"{opened:.1f} s, {resident:.0f} MB resident then.\n")
    print("| the newest 20 entries of the undo log | with a stock client |")
    print("|---|--:|")
    for question in took[0]:
        print(f"| {question} | {ms(1e3 * statistics.median(t[question] for t in took))} |")
    sys.stdout.flush()
    shutil.rmtree(directory)


def pack(options):
    directory = place(options)
    file = directory / "Packed.fs"
    stock(options, "fill", file, options.objects)
    with s3storage(options, directory) as ours:
        stock(options, "fill", ours.address, options.objects)
        mine = stock(options, "pack", ours.address)
        dropped = int(re.search(r"\bpacked\b.* revisions=(\d+)", ours.log.read_text())[1])
    other = stock(options, "pack", file)
    if mine["objects after"] < options.objects or dropped < options.objects:
        sys.exit(f"the pack left {mine['objects after']} objects and dropped {dropped} revisions")
    print(f"| pack of {options.objects:,} objects with two revisions each | time |")
    print("|---|--:|")
    print(f"| s3storage | {mine['seconds']:.1f} s |")
    print(f"| FileStorage.pack, in a process of its own | {other['seconds']:.1f} s |", flush=True)
    shutil.rmtree(directory)


def latencies(result, side="server"):
    figures = result[side]["figures"]["commits"]
    return figures["p50_ms"], figures["p99_ms"]


def beside_row(name, quiet, busy):
    """What rounds of (median, p99) in quiet and in busy times say of each other."""
    cells = []
    for i in 0, 1:
        before, during = (statistics.median(r[i] for r in rounds) for rounds in (quiet, busy))
        cells += [ms(before), ms(during), ratio_cells([b[i] / q[i] for q, b in zip(quiet, busy)])]
    print(f"| {name} | {' | '.join(cells)} |", flush=True)


def beside(options):
    """Commits beside a pack, and beside flushes and merges."""
    slow = f"put-if-absent.delay=1:{PUT}ms,put.delay=1:{PUT}ms"
    print("| 4 clients commit | median without | with | ratio | rounds | p99 without | with | ratio | rounds |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|--:|")
    source = place(options)
    file = source / "Data.fs"
    answer_nothing([options.binary, "bench", "data", "--objects", str(5 * options.objects), "--garbage", "--out", str(file)])
    answer_nothing([options.binary, "import", str(file), str(source / "bucket")])
    measure = ["--clients", "4", "--duration", f"{options.duration / 4}s"]
    for name, more in ("a directory", []), (f"puts of {PUT} ms", ["--inject", slow]):
        quiet, busy = [], []
        for _ in range(options.rounds):
            directory = place(options)
            shutil.copytree(source / "bucket", directory / "bucket")
            with s3storage(options, directory, *more) as ours:
                quiet.append(latencies(bench(options, "commit", ours.address, *measure)))
                with subprocess.Popen([options.binary, "pack", "--server", ours.address]) as packing:
                    busy.append(latencies(bench(options, "commit", ours.address, *measure)))
                    if packing.poll() is not None:
                        sys.exit("the pack was over before the commits beside it: take more objects")
            shutil.rmtree(directory)
        beside_row(f"{name}, a pack of {5 * options.objects:,} objects", quiet, busy)
    for name, more in ("a directory", []), (f"puts of {PUT} ms", ["--inject", slow]):
        first, second = place(options), place(options)
        with (s3storage(options, first, *more, "--flush-bytes", "4MiB") as busy,
              s3storage(options, second, *more, "--flush-bytes", "8GiB", "--flush-objects", "1000000000") as quiet):
            r = bench(options, "commit", busy.address, "--clients", "4", "--vs", quiet.address)
        beside_row(f"{name}, flushes of 4 MiB and merges", [latencies(r, "versus")], [latencies(r)])


GET = 20  # ms


def nodes(options):
    """How reads scale with servers that follow, over S3."""
    directory = place(options)
    file = directory / "Data.fs"
    gateway = harness.Gateway(directory)
    environment = {"AWS_ACCESS_KEY_ID": harness.ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": harness.SECRET_KEY}
    os.environ.update(environment)
    url = gateway.url("nodes")
    answer_nothing([options.binary, "bench", "data", "--objects", str(options.objects), "--garbage", "--out", str(file)])
    answer_nothing([options.binary, "import", str(file), url])
    slow = f"get.delay=1:{GET}ms,get-range.delay=1:{GET}ms"
    print(f"| every get takes {GET} ms | 1 follower | 2 followers | 4 followers | loads by the leader |")
    print("|---|--:|--:|--:|--:|")
    for name, objects, warm, more in [
            (f"cold: {options.objects:,} objects, 4 MB of memory for them", options.objects, 1, ["--memory", "4MB"]),
            ("warm: 2,000 objects", 2_000, 15, [])]:
        cells, led = [], 0
        for followers in 1, 2, 4:
            with contextlib.ExitStack() as running:
                def serve():
                    return running.enter_context(s3storage(
                        options, place(options), "--inject", slow, "--http", "127.0.0.1:0", *more, bucket=url))
                leader = serve()
                wait_for("a leader", leader.process, leader.log, lambda: "this node leads" in leader.log.read_text())
                others = [serve() for _ in range(followers)]
                clients = [subprocess.Popen(
                    [options.binary, "bench", "load", "--existing", "--address", other.address, "--working-set",
                     str(objects), "--clients", "8", "--duration", f"{options.duration}s",
                     "--warmup", f"{warm}s", "--json"], stdout=subprocess.PIPE, text=True) for other in others]
                rates = [json.loads(c.communicate()[0])["server"]["figures"]["loads"]["per_second"] for c in clients]
                led += loads(leader)
            cells.append(sum(rates))
        print(f"| {name} | " + " | ".join(f"{c:.0f}/s ({c / cells[0]:.2f})" for c in cells) + f" | {led} |", flush=True)
    gateway.stop()


def idle(options):
    """What clients cost that do nothing but hear of commits."""
    print("| clients that are connected and do nothing | memory of the server | for each | commits beside, 1 client | median | "
          "bytes of invalidations |")
    print("|---|--:|--:|--:|--:|--:|")
    for clients in 0, 1000, 9000:
        with s3storage(options, place(options)) as ours:
            before = ours.status("VmRSS")
            connections = [connected(ours.address) for _ in range(clients)]
            resident = ours.status("VmRSS")
            heard, stop = [0, 0], threading.Event()  # bytes, and connections that the server has closed
            listener = threading.Thread(target=listen, args=(connections, heard, stop))
            listener.start()
            commits = bench(options, "commit", ours.address)["server"]["figures"]["commits"]
            wait_for("a quiet server", ours.process, ours.log, lambda: quiet(heard))
            stop.set()
            listener.join()
            for connection in connections:
                connection.close()
        if heard[1]:
            sys.exit(f"the server has closed {heard[1]} connections of clients that did nothing")
        each = f"{(resident - before) / clients * 1000:.0f} kB" if clients else ""
        print(f"| {clients} | {resident:.0f} MB | {each} | {commits['per_second']:.0f}/s | {ms(commits['p50_ms'])} "
              f"| {heard[0] / 1e6:.1f} MB |", flush=True)


def connected(address):
    host, _, port = address.rpartition(":")
    connection = wire.Connection((host, int(port)))
    connection.register()
    connection.socket.setblocking(False)
    return connection


def listen(connections, heard, stop):
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ)
        while not stop.is_set():
            for key, _ in selector.select(0.1):
                data = key.fileobj.recv(1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                    heard[1] += 1
                heard[0] += len(data)


def quiet(heard):
    before = heard[0]
    time.sleep(1)
    return heard[0] == before


def loads(server):
    """How many objects a server was asked for."""
    with urllib.request.urlopen(re.search(r"url=(\S+/metrics)", server.log.read_text())[1]) as metrics:
        return sum(int(float(line.split()[-1])) for line in metrics.read().decode().splitlines()
                   if line.startswith("s3storage_loads_total"))


def answer_nothing(command):
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


SECTIONS = {"compare": compare, "slow-bucket": slow_bucket, "blobs": blobs, "undo": undo, "pack": pack,
            "beside": beside, "nodes": nodes, "idle": idle}


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
        for section in options.sections:
            SECTIONS[section](options)
            print()


if __name__ == "__main__":
    main()
