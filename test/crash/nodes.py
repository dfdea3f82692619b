"""Disturbs nodes on one database under load, and proves that nothing was lost.

Clients of ZODB and ZEO, which have the addresses of all nodes, commit and read without
end (zodb_load.py), and one more reads at each node. Nodes are stopped, killed, paused
for longer than the lease, and cut off from each other and from the bucket; the S3
server and the one of the lease are stopped and started. After each disturbance the test
waits until all nodes are well again and writes go on. In the end all transactions are
compared with what the clients wrote down (ledger.py, judge.py), the nodes with each
other and with the bucket, and every byte of the bucket is read.

    python test/crash/nodes.py --minutes 60 --nodes 5 --clients 20 --bucket s3 --lease postgres

What it prints says, for each kind of disturbance, for how long no client was told of a
commit, and which reads failed at nodes that nothing was done to. The exit code is 1 if
anything was lost, torn or seen that may not be; how long things take is not judged.

Nodes have networks of their own where the machine allows it (network.py). Otherwise
all is on the loopback interface, and nothing is cut.
"""

import argparse
import collections
import contextlib
import json
import os
import pathlib
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "interop")]

import harness  # noqa: E402
import judge  # noqa: E402
import lease_server  # noqa: E402
import ledger  # noqa: E402
import network  # noqa: E402
import observe  # noqa: E402
import wire  # noqa: E402

PROCESSES = 4
COUNTERS = 4
SET_UP = 999  # the number of the client that writes the root
LEASE = 5     # seconds after which a silent node has lost it
READS = 500   # on one connection


class Node(harness.Server):
    """A server, in a namespace of its own if its command begins with one."""

    def __init__(self, directory, bucket, address, enter, arguments):
        super().__init__(directory, bucket, listen=address, arguments=arguments)
        self.enter = enter

    def command(self, listen=None):
        return [*self.enter, *super().command(listen)]

    def send(self, number):
        self.process.send_signal(number)


class Disturbance:
    """One thing that was done, to some nodes or to none."""

    def __init__(self, kind, nodes):
        self.kind, self.nodes = kind, nodes
        self.start, self.end = time.monotonic(), None
        self.reads, self.longest, self.failed = 0, 0, []  # at the other nodes

    def covers(self, since):
        """Whether it was still going on then, or later."""
        return self.end is None or self.end > since


class Reader(threading.Thread):
    """Reads at one node, without a cache."""

    def __init__(self, run, node):
        super().__init__(daemon=True)
        self.owner, self.node = run, node
        self.random = random.Random(f"{run.options.seed}-{node.host_port}")
        self.connection = None
        self.last = 0  # when the last read that succeeded was begun
        self.stopped = threading.Event()

    def run(self):
        while not self.stopped.wait(0.05):
            oids = self.owner.readable[:]  # what the node has when it has let one in
            try:
                with wire.Connection(self.node.address) as self.connection:
                    self.connection.register(read_only=True)
                    for _ in range(READS):
                        if self.stopped.wait(0.02):
                            break
                        self.read(self.random.choice(oids))
            except (OSError, wire.Closed, wire.ServerError):
                pass  # the node is down, or begins

    def read(self, oid):
        start = time.monotonic()
        try:
            self.connection.call("loadBefore", bytes.fromhex(oid), wire.maxtid)
        except (OSError, wire.Closed, wire.ServerError) as e:
            self.owner.was_read(self.node, start, repr(e))
            raise
        self.owner.was_read(self.node, start)
        self.last = start
        self.connection.notices.clear()

    def reset(self):
        """Give up a connection on which nothing may come for a while."""
        with contextlib.suppress(OSError, AttributeError):
            self.connection.socket.shutdown(2)


class Ledger(ledger.Reader):
    """What clients wrote down, and their reads."""

    def __init__(self, directory):
        super().__init__(directory)
        self.looks = []  # (address, at, seconds, error or None)
        self.refused = collections.Counter()  # why transactions failed
        self.begun = {}  # client -> when the last one was begun of which it was told

    def _event(self, client, event, new):
        if "r" in event or "f" in event:
            self.looks.append((event["node"], event["at"], event.get("r"), event.get("f")))
        elif "w" in event:
            self.refused[event["w"].partition("(")[0]] += 1
        super()._event(client, event, new)
        if "k" in event:
            self.begun[client] = self.attempts[client, event["k"]].at


class Failed(Exception):
    """The run cannot go on."""


class Run:

    def __init__(self, options, directory):
        self.options = options
        self.directory = pathlib.Path(directory)
        self.random = random.Random(options.seed)
        self.ledger_directory = self.directory / "ledger"
        self.ledger_directory.mkdir()
        self.ledger = Ledger(self.ledger_directory)
        self.findings = judge.Findings()
        self.disturbances = []
        self.lock = threading.Lock()  # of what readers add to disturbances
        self.load, self.readers, self.nodes = [], [], []
        self.loads = []  # averages, of the machine
        self.network = self.gateway = self.lease = None
        self.counters, self.trees = [], []
        self.readable = [ledger.ROOT]

    # -- what there is

    def set_up(self):
        options = self.options
        if network.inside():
            self.network = network.Network()
        s3, lease = (network.S3, network.LEASE) if self.network else ("127.0.0.1",) * 2
        if options.bucket == "s3":
            self.gateway = harness.Gateway(self.directory / "gateway", s3)
        self.bucket = harness.Bucket(options.bucket, self.directory, self.gateway)
        if options.lease in lease_server.KINDS:
            self.lease = lease_server.KINDS[options.lease](self.directory / "lease", lease)
            self.lease.start()
        self.lease_url = self.lease.url if self.lease else options.lease
        for number in range(options.nodes):
            host, enter = self.network.add_node() if self.network else ("127.0.0.1", [])
            self.nodes.append(Node(
                self.directory / f"node-{number}", self.bucket,
                f"{host}:{harness.free_port()}", enter,
                ["--lease", self.lease_url, "--flush-objects", self.random.choice(("50", "500"))]))
        for node in self.nodes:
            node.start()
        self.make_database()
        self.start_load()
        for node in self.nodes:
            self.readers.append(Reader(self, node))
            self.readers[-1].start()

    def make_database(self):
        """The root, counters at zero, empty trees."""
        clients = self.options.clients
        log = ledger.Writer(self.ledger_directory / f"client-{SET_UP}.jsonl")
        with wire.Connection(self.nodes[0].address) as connection:
            connection.register()
            oids = [oid.hex() for oid in connection.call("new_oids", COUNTERS + clients)]
            log.write(o=oids)
            self.counters, self.trees = oids[:COUNTERS], oids[COUNTERS:]
            states = {ledger.ROOT: {"refs": oids}}
            states.update((oid, {"value": 0}) for oid in self.counters)
            states.update((oid, {}) for oid in self.trees)
            log.write(a=1, oids=list(states), counter=None, at=time.monotonic())
            tid = connection.commit(
                [(bytes.fromhex(oid), wire.z64, ledger.stamped(SET_UP, 1, slot, **state))
                 for slot, (oid, state) in enumerate(states.items())],
                description=b"%d 1" % SET_UP)
            log.write(k=1, tid=tid.hex(), value=None, at=time.monotonic())

    def start_load(self):
        clients = range(self.options.clients)
        for n in range(PROCESSES):
            mine = clients[n * len(clients) // PROCESSES:(n + 1) * len(clients) // PROCESSES]
            job = dict(first=mine.start, clients=len(mine), counters=self.counters,
                       trees=self.trees, addresses=[node.address for node in self.nodes],
                       directory=str(self.ledger_directory), seed=self.options.seed)
            self.load.append(subprocess.Popen(
                [sys.executable, str(HERE / "zodb_load.py"), json.dumps(job)],
                stdin=subprocess.PIPE, cwd=self.directory,
                stderr=open(self.directory / f"load-{n}.log", "wb"),
                env=dict(os.environ, PYTHONPATH=f"{HERE}:{HERE.parent / 'interop'}")))
        self.await_clients(0)

    # -- waiting

    def update(self):
        for ack in self.ledger.update():
            self.readable += self.ledger.attempts[ack.client, ack.seq].oids
        del self.readable[:-3000]
        if self.ledger.complaints:
            raise Failed("\n".join(self.ledger.complaints))
        for process in self.load:
            if process.poll() is not None:
                raise Failed(f"a load process ended with {process.returncode}")
        for node in self.nodes:
            if node.process is not None and node.process.poll() is not None:
                raise Failed(f"{node.directory.name} ended by itself:\n{node.stderr()[-3000:]}")

    def wait(self, what, condition, timeout=3 * harness.HANG):
        def holds():
            self.update()
            return condition()
        harness.wait_until(what, holds, timeout, interval=0.05)

    def written(self, since, clients=1):
        """Whether so many clients were told of a transaction begun since then."""
        return sum(at > since for at in self.ledger.begun.values()) >= clients

    def await_clients(self, since):
        self.wait("every client is told of a commit",
                  lambda: self.written(since, self.options.clients))

    def leader(self):
        """The node that leads, when all others follow it."""
        found = []

        def leads():
            status = subprocess.run(
                [harness.BINARY, "status", self.bucket.url, "--lease", self.lease_url],
                env=dict(harness.environment(), GORACE="atexit_sleep_ms=0"),
                capture_output=True, text=True, timeout=harness.HANG).stdout
            name = re.search(r"^leader by the log .*?([\d.]+:\d+)\)?$", status, re.M)
            followers = len(re.findall("^follower ", status, re.M))
            found[:] = [node for node in self.nodes if name and node.host_port == name[1]]
            return found and followers == len(self.nodes) - 1
        self.wait("one node leads, and all others follow it", leads)
        return found[0]

    # -- disturbances

    @contextlib.contextmanager
    def disturbance(self, kind, *nodes):
        """Within it something is done to the nodes, or to what they need, and made good
        again. It ends when all is well."""
        event = Disturbance(kind, nodes)
        with self.lock:
            self.disturbances.append(event)
        self.say(f"{kind}: {', '.join(node.directory.name for node in nodes) or '-'}")
        yield event
        healed = time.monotonic()
        for reader in self.readers:
            if reader.node in nodes:
                reader.reset()
        self.wait("writes go on", lambda: self.written(healed))
        self.wait("each node can be read",
                  lambda: all(reader.last > healed for reader in self.readers))
        self.leader()
        with self.lock:
            event.end = time.monotonic()
        self.loads.append(os.getloadavg()[0])
        self.say(f"    no commit for {self.gap(event):.2f} s; {len(event.failed)} of "
                 f"{event.reads} reads at other nodes failed")

    def hold(self, seconds):
        """Wait for a time, and then for writes, but not for ever."""
        start = time.monotonic()
        self.wait("time passes", lambda: time.monotonic() > start + seconds and (
            self.written(start) or time.monotonic() > start + seconds + 4 * LEASE))

    def was_read(self, node, start, error=None):
        with self.lock:
            now = [event for event in self.disturbances[-2:] if event.covers(start)]
            if error and not now:
                self.findings.add("complaint", f"a read at {node.directory.name} failed while "
                                               f"nothing was wrong: {error}")
            for event in now:
                if node not in event.nodes:
                    event.reads += 1
                    event.longest = max(event.longest, time.monotonic() - start)
                    if error:
                        event.failed.append(f"{node.directory.name}: {error}")

    def stopped(self, node):
        with self.disturbance(self.role(node) + " stopped", node):
            node.terminate()
            node.wait_stopped()
            self.wait("writes go on", lambda since=time.monotonic(): self.written(since))
            node.start()

    def killed(self, node):
        with self.disturbance(self.role(node) + " killed", node):
            node.kill()
            self.wait("writes go on", lambda since=time.monotonic(): self.written(since))
            node.start()

    def killed_and_started(self, node):
        with self.disturbance(self.role(node) + " killed, started at once", node):
            node.kill()
            node.start()

    def all_killed(self, _):
        with self.disturbance("all killed, started at once", *self.nodes):
            for node in self.nodes:
                node.kill()
            for node in self.nodes:
                node.spawn()
            for node in self.nodes:
                harness.wait_until("the server is ready", node.ready)

    def paused(self, node):
        with self.disturbance(self.role(node) + " paused", node):
            node.send(signal.SIGSTOP)
            try:
                self.hold(LEASE + self.random.uniform(2, 5))
            finally:
                node.send(signal.SIGCONT)

    def cut_off(self, node):
        with self.cut(node, "cut off"):
            self.network.cut(self.nodes.index(node))

    def cut_from_bucket(self, node):
        with self.cut(node, "cut off from S3"):
            self.network.cut_from(self.nodes.index(node), network.S3)

    def cut_from_nodes(self, node):
        with self.cut(node, "cut off from the other nodes"):
            for other in self.nodes:
                if other is not node:
                    self.network.cut_from(self.nodes.index(node), other.address[0])

    @contextlib.contextmanager
    def cut(self, node, what):
        with self.disturbance(f"{self.role(node)} {what}", node):
            yield
            try:
                self.hold(LEASE + self.random.uniform(2, 5))
            finally:
                self.network.heal(self.nodes.index(node))

    def s3_restarted(self, _):
        with self.disturbance("S3 stopped for some seconds"):
            self.gateway.stop()
            time.sleep(self.random.uniform(1, 5))
            self.gateway.start()

    def lease_restarted(self, _):
        with self.disturbance(f"{self.options.lease} restarted"):
            self.lease.stop()
            self.lease.start()
            self.hold(LEASE)

    def lease_down(self, leader):
        with self.disturbance(f"{self.options.lease} stopped, leader killed", leader):
            self.lease.stop()
            leader.kill()
            time.sleep(self.random.uniform(1, 3))
            self.lease.start()
            self.wait("writes go on", lambda since=time.monotonic(): self.written(since))
            leader.start()

    def lease_flushed(self, _):
        with self.disturbance("memcached flushed"):
            self.lease.flush()
            self.hold(LEASE)

    def role(self, node):
        return "leader" if node is self.leads else "follower"

    def kinds(self):
        """What can be done here: (what, whether to the leader, or None for neither)."""
        kinds = [(self.stopped, True), (self.killed, True), (self.paused, True),
                 (self.stopped, False), (self.killed, False), (self.paused, False),
                 (self.killed_and_started, True), (self.all_killed, None)]
        if self.network:
            kinds += [(self.cut_from_nodes, True), (self.cut_from_nodes, False)]
            if self.gateway:  # a directory cannot be cut off
                kinds += [(self.cut_off, True), (self.cut_off, False),
                          (self.cut_from_bucket, True), (self.cut_from_bucket, False)]
        if self.gateway:
            kinds.append((self.s3_restarted, None))
        if self.lease:
            kinds += [(self.lease_restarted, None), (self.lease_down, True)]
        if self.options.lease == "memcached":
            kinds.append((self.lease_flushed, None))
        return kinds

    def disturb(self):
        """Each kind once, in any order, again and again until the time is over."""
        until = time.monotonic() + 60 * self.options.minutes
        while True:
            kinds = self.kinds()
            self.random.shuffle(kinds)
            for what, leader in kinds:
                self.leads = self.leader()
                followers = [node for node in self.nodes if node is not self.leads]
                what(self.leads if leader else self.random.choice(followers))
                if time.monotonic() > until and len(self.disturbances) >= len(kinds):
                    return

    # -- in the end

    def judge(self):
        """Everything: the ledgers, the nodes, the bucket."""
        self.await_clients(time.monotonic())
        self.leader()
        self.stop_load()
        self.ledger.update()
        raws = []
        for node in self.nodes:
            with wire.Connection(node.address) as connection:
                connection.register()
                raws.append(observe.iterate(connection))
            if raws[-1] != raws[0]:
                self.findings.add("view", f"{node.directory.name} has other transactions than "
                                          f"{self.nodes[0].directory.name}")
            del raws[1:]
        self.findings.update(judge.judge(
            self.ledger, observe.understood(raws[0]), self.counters))
        oids = {oid for _, oid in self.ledger.oids}
        for node in self.nodes:
            with wire.Connection(node.address) as connection:
                connection.register()
                observe.check_loads(connection, raws[0], oids, self.findings)
        self.stop_readers()
        for node in self.nodes:
            node.stop()
        observe.check_bucket(self.bucket.path, raws[0], self.findings)
        said = subprocess.run([harness.BINARY, "check", "--full", self.bucket.url],
                              env=harness.environment(), capture_output=True, text=True)
        if said.returncode:
            self.findings.add("bucket", said.stdout + said.stderr)
        for address, at, _, error in self.ledger.looks:
            if error:
                self.failed_look(tuple(address or ()), at, error)

    def failed_look(self, address, at, error):
        """A client's read that failed: at a node that lived?"""
        for event in self.disturbances:
            if event.start <= at + harness.HANG and event.end > at:
                if all(node.address != address for node in event.nodes) and address:
                    event.failed.append(f"client at {address}: {error}")
                return
        self.findings.add("complaint", f"a client's read at {address} failed while nothing "
                                       f"was wrong: {error}")

    def stop_load(self):
        for process in self.load:
            process.stdin.close()
        for process in self.load:
            if process.wait(4 * harness.HANG):
                self.findings.add("complaint", f"a load process ended with {process.returncode}")
        self.load = []

    def run(self):
        try:
            self.set_up()
            self.disturb()
            self.judge()
        except (Failed, AssertionError, wire.ServerError, wire.Closed, OSError) as e:
            self.findings.add("complaint", f"the run broke off: {e!r}")
        finally:
            self.close()

    def stop_readers(self):
        for reader in self.readers:
            reader.stopped.set()
        for reader in self.readers:
            reader.join()
        self.readers = []

    def close(self):
        self.stop_readers()
        for process in self.load:
            process.kill()
            process.wait()
        for node in self.nodes:
            node.kill()
            with contextlib.suppress(FileNotFoundError):
                try:
                    node.check_log()
                except AssertionError as e:
                    self.findings.add("complaint", str(e))
        for part in (self.lease, self.gateway):
            if part:
                part.stop()
        if self.network:
            self.network.close()

    # -- what it says

    def say(self, text):
        print(text, flush=True)

    def gap(self, event):
        """The longest time in which no client was told of a commit."""
        times = sorted(ack.at for ack in self.ledger.acks.values()
                       if event.start - 60 < ack.at < event.end + 60)
        return max((after - before for before, after in zip(times, times[1:])
                    if after > event.start and before < event.end), default=0)

    def table(self):
        """Figures for each kind of disturbance."""
        kinds = collections.defaultdict(list)
        for event in self.disturbances:
            if event.end:
                kinds[event.kind].append(event)
        rows = ["| Disturbance | Times | Longest time without commits | Median "
                "| Reads at nodes that lived | failed | longest |",
                "|---|--:|--:|--:|--:|--:|--:|"]
        for kind, events in sorted(kinds.items()):
            gaps = [self.gap(event) for event in events]
            rows.append(f"| {kind} | {len(events)} | {max(gaps):.1f} s "
                        f"| {statistics.median(gaps):.1f} s "
                        f"| {sum(event.reads for event in events):,} "
                        f"| {sum(len(event.failed) for event in events)} "
                        f"| {max(event.longest for event in events):.1f} s |")
        for event in self.disturbances:
            for failure in event.failed[:3]:
                rows.append(f"failed read, {event.kind}: {failure[:300]}")
        return "\n".join(rows)

    def summary(self):
        options = self.options
        reader = self.ledger
        unknown = len(reader.attempts) - len(reader.acks) - len(reader.given_up)
        looks = [seconds for _, _, seconds, _ in reader.looks if seconds is not None]
        return (f"seed {options.seed}: {options.nodes} nodes, {options.clients} clients, "
                f"{options.bucket}, lease {options.lease}, "
                f"{'networks' if self.network else 'no networks, so nothing was cut'}; "
                f"{len(self.disturbances)} disturbances, {len(reader.acks)} acknowledged, "
                f"{unknown} unknown, {len(reader.given_up)} refused {dict(reader.refused)}, "
                f"{len(looks)} looks of clients (longest {max(looks, default=0):.1f} s), "
                f"load average {min(self.loads, default=0):.0f} to {max(self.loads, default=0):.0f}; "
                + ", ".join(f"{self.findings.count(kind)} {kind}" for kind in judge.Findings.KINDS))


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=0,
                        help="at least each disturbance once; default: just that")
    parser.add_argument("--nodes", type=int, default=3)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--bucket", choices=["dir", "s3"], default="dir")
    parser.add_argument("--lease", choices=["bucket", "postgres", "memcached"], default="bucket")
    parser.add_argument("--keep", action="store_true", help="the evidence, in any case")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31),
                        help="of the disturbances and the load; by default a new one")
    options = parser.parse_args(arguments)
    if not network.inside():
        status = network.rerun()
        if status is not None:
            return status
    print(f"seed {options.seed}", flush=True)
    directory = tempfile.mkdtemp(prefix="crash-nodes-")
    os.chmod(directory, 0o711)  # for a server that is not root's
    run = Run(options, directory)
    run.run()
    print(run.table())
    if run.findings or options.keep:
        print(run.findings.describe())
        print(f"evidence is in {directory}")
    else:
        harness.remove(directory)
    print(run.summary())
    return 1 if run.findings else 0


if __name__ == "__main__":
    sys.exit(main())
