"""Kills servers at random moments under load, and proves that nothing was lost.

Sixteen clients commit without end, with blobs and undo, and one packs; the
server gets SIGKILL, again and again, often in the midst of a pack. After each
kill a new one starts on the same bucket, and everything that is in the database
then is compared with what the clients wrote down (see ledger.py and judge.py):
every revision, every blob, and whether packs took effect as a whole. At the end
the answers of the server are compared with what is in the bucket (observe.py),
every byte of which is read, and a sweep and a last pack have to leave no object
there that nothing needs.

Each server writes out what was committed as segments as often as it happens to
be told: after a few objects of the log, after many, or seldom.

With --fight there are two servers over one bucket, which take over from each
other; clients write to whichever lets them.

    python test/crash/crash.py --kills 200 --bucket s3
    python test/crash/crash.py --kills 200 --inject lost=0.05,late=0.05:200ms
    python test/crash/crash.py --kills 200 --fight

The last line of the output is the summary. The exit code is 1 if anything was
wrong; what the servers logged and the clients wrote down is kept then.

--tamper damages the bucket or the evidence, to show that the check can fail.
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "interop")]

import harness  # noqa: E402
import judge  # noqa: E402
import ledger  # noqa: E402
import load  # noqa: E402
import observe  # noqa: E402
import packer  # noqa: E402
import tamper  # noqa: E402
import wire  # noqa: E402

PROCESSES, CLIENTS = 4, 16
COUNTERS = 4
SET_UP = 999  # the number of the client that writes the root

# All that the fault decorator can do, each often enough to matter.
ALL_FAULTS = ("delay=0.1:20ms,lost=0.05,late=0.05:200ms,409=0.02,500=0.05,"
              "503=0.05,truncate=0.02,flip=0.02")


class Failed(Exception):
    """The run cannot go on: the servers are not what they should be."""


class Run:

    def __init__(self, options, directory):
        self.options = options
        self.directory = pathlib.Path(directory)
        self.random = random.Random(options.seed)
        self.ledger_directory = self.directory / "ledger"
        self.ledger_directory.mkdir()
        self.reader = ledger.Reader(self.ledger_directory)
        self.findings = judge.Findings()
        self.unchecked = []  # acknowledgements since the last check
        self.writer = ledger.Writer(self.ledger_directory / f"client-{SET_UP}.jsonl")
        self.counters, self.trees, self.written = [], [], 0
        self.kills = 0
        self.restarts = 0  # of servers that did not get through their start
        self.load = []
        self.gateway = None
        if options.bucket == "s3":
            self.gateway = harness.Gateway(self.directory / "gateway")
        elif options.bucket == "eventual":
            self.gateway = harness.Catalog(self.directory)
        self.bucket = harness.Bucket(options.bucket, self.directory, self.gateway)
        self.servers = [self.new_server(n) for n in range(2 if options.fight else 1)]
        self.newest = self.servers[0]
        self.packer = packer.Packer(
            self.ledger_directory, options.seed, lambda: self.connect(read_only=False))

    def new_server(self, number):
        return harness.Server(self.directory / f"server-{number}", self.bucket)

    # -- servers

    def spawn(self, server, *arguments):
        # Each life is another one, and gets faults of its own.
        server.arguments = ["--pack-grace", self.random.choice(("0s", "0s", "1m")),
                            "--flush-objects", str(self.random.choice((3, 20, 20, 100))),
                            "--flush-bytes", self.random.choice(("10kB", "1MB"))]
        if self.options.tamper:  # that needs some log, and what was before a pack
            server.arguments = ["--pack-grace", "1m"]
        server.arguments += arguments
        if self.options.inject:
            server.arguments += ["--inject", f"seed={self.random.randrange(1 << 31)},"
                                             + self.options.inject]
        server.spawn()
        self.newest = server

    def await_ready(self, server):
        def ready():
            if (self.options.inject and server.process.poll() is not None
                    and "injected fault" in server.stderr_path.read_text()):
                # A fault while it started: whoever runs a server has it
                # started again.
                server.process = None
                self.restarts += 1
                if self.restarts > 20 + 10 * self.options.kills:
                    raise Failed("faults keep the server from starting")
                self.spawn(server)
            return server.ready()
        harness.wait_until("the server is ready", ready, timeout=2 * harness.HANG)

    def start(self, server):
        self.spawn(server)
        self.await_ready(server)

    def kill(self, server):
        if server.process is None:
            return
        if server.process.poll() is not None and not server.ready_lines:
            self.await_ready(server)  # it ended while it started
        if server.process.poll() is not None:
            raise Failed(f"a server ended by itself with {server.process.returncode}:\n"
                         + server.stderr()[-5000:])
        server.kill()
        server.check_log()
        self.kills += 1

    def connect(self, read_only=True):
        """A registered connection to the server started last."""
        connection = wire.Connection(self.newest.address)
        try:
            connection.register(read_only=read_only)
        except BaseException:
            connection.close()
            raise
        return connection

    # -- load

    def make_database(self):
        """The root, counters at zero, empty trees.

        Without faults: a store that damages what the probe at the first use
        reads back is refused, and rightly."""
        self.servers[0].start()
        with self.connect(read_only=False) as connection:
            oids = [oid.hex() for oid in connection.call("new_oids", COUNTERS + CLIENTS)]
            self.writer.write(o=oids)
            self.counters, self.trees = oids[:COUNTERS], oids[COUNTERS:]
            self.write(connection, wire.z64, dict(
                [(ledger.ROOT, {"refs": oids})] + [(oid, {"value": 0}) for oid in self.counters]
                + [(oid, {}) for oid in self.trees]))
        self.servers[0].stop()

    def write(self, connection, serial, states):
        """Commit these objects, which all have the serial."""
        self.written += 1
        seq = self.written
        self.writer.write(a=seq, oids=list(states), counter=None, at=time.monotonic())
        tid = connection.commit(
            [(bytes.fromhex(oid), serial, ledger.stamped(SET_UP, seq, slot, **state))
             for slot, (oid, state) in enumerate(states.items())],
            description=b"%d %d" % (SET_UP, seq))
        self.writer.write(k=seq, tid=tid.hex(), value=None, at=time.monotonic())

    def start_load(self):
        each = CLIENTS // PROCESSES
        for n in range(PROCESSES):
            job = dict(first=n * each, clients=each, counters=self.counters, trees=self.trees,
                       addresses=[server.address for server in self.servers],
                       directory=str(self.ledger_directory), seed=self.options.seed)
            self.load.append(subprocess.Popen(
                [sys.executable, str(HERE / "load.py"), json.dumps(job)],
                stdin=subprocess.PIPE,
                env=dict(os.environ,
                         PYTHONPATH=f"{HERE}:{HERE.parent / 'interop'}")))

    def stop_load(self):
        for process in self.load:
            process.stdin.close()
        for process in self.load:
            if process.wait(4 * harness.HANG):
                self.findings.add("complaint", f"a load process ended with {process.returncode}")
        self.load = []

    def await_progress(self, commits):
        """Wait until so many more commits were acknowledged."""
        goal = len(self.reader.acks) + commits

        def reached():
            self.check_new()
            for process in self.load:
                if process.poll() is not None:
                    raise Failed(f"a load process ended with {process.returncode}")
            return len(self.reader.acks) >= goal
        harness.wait_until(f"{commits} more commits are acknowledged", reached,
                           timeout=2 * harness.HANG, interval=0.05)

    def await_evidence(self):
        """Wait until the newest that there is, which no pack has touched, holds
        an undo and a blob."""
        limit = self.reader.packed_to()

        def there():
            self.check_new()
            new = [self.reader.attempts[key] for key, ack in self.reader.acks.items()
                   if ack.tid > limit]
            return (any(attempt.then for attempt in new)
                    and any(load.has_blob(oid) for attempt in new if not attempt.then
                            for oid in set(attempt.oids) - set(self.trees)))
        harness.wait_until("there are an undo and a blob", there,
                           timeout=2 * harness.HANG, interval=0.05)

    # -- the kills

    def one_server(self):
        server = self.servers[0]
        self.start(server)
        self.start_load()
        self.packer.start()
        self.await_progress(20)
        while self.kills < self.options.kills:
            dice = self.random.random()
            if dice < 0.1:
                # While it starts.
                time.sleep(self.random.uniform(0, 0.3))
            else:
                self.await_ready(server)
                self.check_all()
                if dice < 0.8:
                    self.await_progress(self.random.randrange(1, 150))
                self.await_moment(0.4)
            self.kill(server)
            self.spawn(server)
            self.say()
        self.await_ready(server)
        self.await_progress(20)

    def two_servers(self):
        one, other = self.servers
        self.start(one)
        self.start_load()
        self.packer.start()
        self.await_progress(20)
        self.start(other)
        while self.kills < self.options.kills:
            self.await_ready(self.newest)
            self.check_all()
            if self.random.random() < 0.8:
                self.await_progress(self.random.randrange(1, 150))
            self.await_moment(0.3)
            dice = self.random.random()
            victims = ([one, other] if dice < 0.25 else
                       [self.random.choice([one, other])])
            for victim in victims:
                self.kill(victim)
            time.sleep(self.random.uniform(0, 0.2))
            self.random.shuffle(victims)
            for victim in victims:
                # Two that start at once fight over the same slots.
                self.spawn(victim)
            for victim in victims:
                self.await_ready(victim)
            if len(victims) == 2:
                # Who of the two leads is not known: have one start after both.
                self.kill(victims[0])
                self.start(victims[0])
            self.say()
        self.await_progress(20)

    def await_moment(self, most):
        """The moment to kill: at random, half of the times while a pack is under way."""
        if self.random.random() < 0.5:
            self.packer.wanted.set()
            self.packer.busy.wait(2)
            most = 1.2 * self.packer.took
        time.sleep(self.random.uniform(0, most))

    def say(self):
        if self.options.verbose:
            print(f"{self.kills} kills, {len(self.reader.acks)} acknowledged, "
                  f"{len(self.reader.packed)} packs", flush=True)

    # -- checks

    def update(self):
        self.unchecked += self.reader.update()

    def check_new(self):
        """Read back what was acknowledged since the last check."""
        self.update()
        acks = list(self.unchecked)
        if not acks or self.newest.process is None:
            return
        calls, expected = [], []
        for ack in acks:
            attempt = self.reader.attempts[ack.client, ack.seq]
            for oid, stamp in attempt.contents(self.counters).items():
                calls.append(("loadSerial", bytes.fromhex(oid), bytes.fromhex(ack.tid)))
                expected.append((oid, stamp, ack))
        wrong = []
        with self.expect_trouble():
            with self.connect() as connection:
                for (oid, stamp, ack), answer in zip(expected, connection.pipeline(calls)):
                    if isinstance(answer, wire.ServerError):
                        if answer.name != "POSKeyError":
                            raise answer  # trouble with the bucket: again next time
                        answer = None
                    state = ledger.read_state(answer)
                    if (state and state.stamp) != stamp:
                        wrong.append((oid, state, ack))
            self.update()
            for oid, state, ack in wrong:
                # What may have been packed is for judge.
                if state or ack.tid > self.reader.packed_to():
                    self.findings.add("lost", f"{(ack.client, ack.seq)} at {ack.tid}: "
                                              f"{oid} right after a start")
            del self.unchecked[:len(acks)]

    @contextlib.contextmanager
    def expect_trouble(self):
        """Servers are killed, and fail: what was not done comes again."""
        try:
            yield
        except TimeoutError:
            # Have Go print what it is doing.
            self.newest.process.send_signal(signal.SIGQUIT)
            self.newest.process.wait(harness.HANG)
            raise Failed(f"a call hung: see {self.newest.stderr_path}") from None
        except (wire.Closed, OSError, wire.ServerError):
            pass

    def check_all(self):
        """Judge all that is in the database, while clients are in the midst of
        something, but no pack is."""
        with self.packer.lock, self.clients_stopped(), self.expect_trouble():
            self.judge_all(strict=False)

    @contextlib.contextmanager
    def clients_stopped(self):
        """Else they commit faster than all can be read."""
        for process in self.load:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in self.load:
                process.send_signal(signal.SIGCONT)

    def judge_all(self, strict):
        """Judge all that the newest server has; return its transactions."""
        self.update()
        acks = dict(self.reader.acks)
        findings = judge.Findings()
        with self.connect() as connection:
            raw = observe.iterate(connection)
            transactions = observe.understood(raw)
            observe.check_blobs(connection, transactions, findings, strict)
        self.update()
        self.findings.update(findings)
        self.findings.update(judge.judge(self.reader, transactions, self.counters, acks))
        return raw

    def final_check(self):
        """Everything, as a server sees it that knows only the bucket. It begins
        with a sweep of what killed servers have left."""
        self.options = argparse.Namespace(**{**vars(self.options), "inject": None})
        self.spawn(self.servers[0], "--pack-grace", "0s", "--sweep-after", "1ns")
        self.await_ready(self.servers[0])
        self.check_views()
        self.check_oids_are_new()
        if not self.findings:
            self.check_cleaning()
        self.servers[0].stop()

    def check_views(self):
        """Whether all ways to look at the database show what has to be there."""
        raw = self.judge_all(strict=True)
        oids = {oid for _, oid in self.reader.oids}
        with self.connect() as connection:
            observe.check_loads(connection, raw, oids, self.findings)
        if self.options.bucket == "eventual":
            harness.wait_until("all is in the store", self.gateway.copied)
        observe.check_bucket(self.bucket.path, raw, self.findings)

    def check_cleaning(self):
        """Whether a pack to now leaves in the bucket what is needed, and nothing else."""
        with self.connect(read_only=False) as connection:
            _, serial, _ = connection.call("loadBefore", bytes(8), wire.maxtid)
            self.write(connection, serial, {
                ledger.ROOT: {"refs": self.counters + self.trees}})  # something to drop
        if not self.packer.pack(time.time()):
            self.findings.add("complaint", "the last pack was refused")
        self.check_views()
        with contextlib.suppress(AssertionError):
            harness.wait_until("nothing superfluous is in the bucket",
                               lambda: not self.left_over())
        for name in self.left_over():
            self.findings.add("bucket", f"{name} is left over")

    def left_over(self):
        left = observe.left_over(self.bucket.path)
        if self.options.bucket == "eventual":
            left = set(left) - self.gateway.unfinished()
        return left

    def check_oids_are_new(self):
        """Whoever asks now gets none that was given before."""
        given = {oid for _, oid in self.reader.oids}
        with wire.Connection(self.servers[0].address) as connection:
            connection.register()
            for oid in connection.call("new_oids", 100):
                if oid.hex() in given:
                    self.findings.add("duplicate", f"oid {oid.hex()}: given again at the end")

    # -- all of it

    def run(self):
        try:
            self.make_database()
            if self.options.fight:
                self.two_servers()
            else:
                self.one_server()
            harness.wait_until("two packs are done", lambda: self.check_new() or
                               len(self.reader.packed) >= 2, timeout=2 * harness.HANG)
            self.packer.stop()
            self.await_evidence()
            self.stop_load()
            self.check_new()
            if self.options.tamper == "half-pack":
                self.packer.pack(time.time())
            for server in self.servers:
                server.kill()
                server.check_log()
            if self.options.tamper:
                self.reader.update()
                tamper.tamper(self.options.tamper, self.bucket.path, self.reader)
            self.final_check()
        except (Failed, AssertionError, wire.ServerError, TimeoutError,
                wire.Closed, OSError) as e:
            self.findings.add("complaint", f"the run broke off: {e}")
        finally:
            self.packer.stop()
            for process in self.load:
                process.kill()
                process.wait()
            for server in self.servers:
                with contextlib.suppress(AssertionError):
                    server.kill()
            if self.gateway:
                self.gateway.stop()

    def summary(self):
        options = self.options
        unknown = [key for key in self.reader.attempts
                   if key not in self.reader.acks and key not in self.reader.given_up]
        undone = sum(self.reader.attempts[key].then is not None for key in self.reader.acks)
        counts = {kind: self.findings.count(kind) for kind in judge.Findings.KINDS}
        first = {kind: counts.pop(kind) for kind in ("lost", "partial", "blob", "half")}
        return (f"seed {options.seed}: {self.kills} kills, {len(self.reader.acks)} "
                f"acknowledged ({undone} undos), {len(unknown)} unknown, "
                f"{len(self.reader.oids)} oids, {len(self.reader.packed)} packs done of "
                f"{self.packer.number}; {first['lost']} lost, {first['partial']} partial, "
                f"{first['blob']} wrong blobs, {first['half']} half packs, "
                f"{counts.pop('duplicate')} duplicate oids, {sum(counts.values())} other")


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="how often to kill")
    parser.add_argument("--bucket", choices=["dir", "s3", "eventual"], default="dir")
    parser.add_argument("--inject", metavar="SPEC",
                        help='faults in the bucket; "all" stands for ' + ALL_FAULTS)
    parser.add_argument("--fight", action="store_true", help="two servers, one bucket")
    parser.add_argument("--seed", type=int, default=None,
                        help="of the kills and the load; by default a new one")
    parser.add_argument("--tamper", choices=list(tamper.KINDS),
                        help="damage the bucket or the evidence: the run has to fail")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args(arguments)
    if options.seed is None:
        options.seed = random.SystemRandom().randrange(1 << 31)
    if options.inject == "all":
        options.inject = ALL_FAULTS
    return options


def main(arguments=None):
    options = parse(arguments)
    print(f"seed {options.seed}", flush=True)
    directory = tempfile.mkdtemp(prefix="crash-")
    run = Run(options, directory)
    run.run()
    if run.findings:
        print(run.findings.describe())
        print(f"evidence is in {directory}")
    else:
        harness.remove(directory)
    print(run.summary())
    return 1 if run.findings else 0


if __name__ == "__main__":
    sys.exit(main())
