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
import contextlib
import json
import os
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "interop")]

import disturbances  # noqa: E402
import harness  # noqa: E402
import judge  # noqa: E402
import lease_server  # noqa: E402
import ledger  # noqa: E402
import network  # noqa: E402
import node_reads  # noqa: E402
import observe  # noqa: E402
import wire  # noqa: E402

PROCESSES = 4
COUNTERS = 4
SET_UP = 999  # the number of the client that writes the root


class Node(harness.Server):
    """A server, in a namespace of its own if its command begins with one."""

    def __init__(self, directory, bucket, address, enter, arguments):
        super().__init__(directory, bucket, listen=address, arguments=arguments)
        self.enter = enter

    def command(self, listen=None):
        return [*self.enter, *super().command(listen)]


class Failed(Exception):
    """The run cannot go on."""


class Run:

    def __init__(self, options, directory):
        self.options = options
        self.directory = pathlib.Path(directory)
        self.random = random.Random(options.seed)
        self.ledger_directory = self.directory / "ledger"
        self.ledger_directory.mkdir()
        self.ledger = node_reads.Ledger(self.ledger_directory)
        self.findings = judge.Findings()
        self.load, self.readers, self.nodes = [], [], []
        self.disturber = disturbances.Disturber(self)
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
                ["--lease", self.lease_url, "--pack-grace", "1m",
                 "--flush-objects", self.random.choice(("50", "500"))]))
        for node in self.nodes:
            node.start()
        self.make_database()
        self.start_load()
        for node in self.nodes:
            self.readers.append(node_reads.Reader(
                node, self.options.seed, lambda: self.readable[:], self.disturber.was_read))
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
            with open(self.directory / f"load-{n}.log", "wb") as log:
                self.load.append(subprocess.Popen(
                    [sys.executable, str(HERE / "zodb_load.py"), json.dumps(job)],
                    stdin=subprocess.PIPE, cwd=self.directory, stderr=log,
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

    # -- in the end

    def judge(self):
        """Compare the ledgers with what is there, and that with what each node and the
        bucket say."""
        self.await_clients(time.monotonic())
        self.leader()
        self.stop_load()
        self.ledger.update()
        with wire.Connection(self.random.choice(self.nodes).address) as connection:
            connection.register()
            raw = observe.iterate(connection)
        self.findings.update(judge.judge(self.ledger, observe.understood(raw), self.counters))
        oids = {oid for _, oid in self.ledger.oids}
        for node in self.nodes:
            with wire.Connection(node.address) as connection:
                connection.register()
                observe.check_loads(connection, raw, oids, self.findings)
        self.stop_readers()
        for node in self.nodes:
            node.stop()
        observe.check_bucket(self.bucket.path, raw, self.findings)
        said = subprocess.run([harness.BINARY, "check", "--full", self.bucket.url],
                              env=harness.environment(), capture_output=True, text=True)
        if said.returncode:
            self.findings.add("bucket", said.stdout + said.stderr)
        for address, at, _, error in self.ledger.looks:
            if error:
                self.disturber.failed_look(tuple(address or ()), at, error)
        for event in self.disturber.done:
            if not event.kind.startswith("S3"):  # without it what is not in memory is not read
                for failure in event.failed:
                    self.findings.add("unread", f"{event.kind}: {failure}")

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
            self.disturber.disturb()
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

    def summary(self):
        options = self.options
        reader = self.ledger
        unknown = len(reader.attempts) - len(reader.acks) - len(reader.given_up)
        loads = self.disturber.loads
        looks = [seconds for _, _, seconds, _ in reader.looks if seconds is not None]
        return (f"seed {options.seed}: {options.nodes} nodes, {options.clients} clients, "
                f"{options.bucket}, lease {options.lease}, "
                f"{'networks' if self.network else 'no networks, so nothing was cut'}; "
                f"{len(self.disturber.done)} disturbances, {len(reader.acks)} acknowledged, "
                f"{unknown} unknown, {len(reader.given_up)} refused {dict(reader.refused)}, "
                f"{len(looks)} looks of clients (longest {max(looks, default=0):.1f} s), "
                f"load average {min(loads, default=0):.0f} to {max(loads, default=0):.0f}; "
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
    parser.add_argument("--only", metavar="TEXT", default="",
                        help="disturbances whose methods have this in their names")
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
    print(run.disturber.table())
    if run.findings or options.keep:
        print(run.findings.describe())
        print(f"evidence is in {directory}")
    else:
        harness.remove(directory)
    print(run.summary())
    return 1 if run.findings else 0


if __name__ == "__main__":
    sys.exit(main())
