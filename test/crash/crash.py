"""Kills servers at random moments under load, and proves that nothing was lost.

Sixteen clients commit without end; the server gets SIGKILL, again and again.
After each kill a new one starts on the same bucket, and every commit that was
acknowledged since the last check is read back. At the end all revisions of all
objects are read and compared with what the clients wrote down (see ledger.py).

With --fight there are two servers over one bucket, which take over from each
other; clients write to whichever lets them.

    python test/crash/crash.py --kills 200 --bucket s3
    python test/crash/crash.py --kills 200 --inject lost=0.05,late=0.05:200ms
    python test/crash/crash.py --kills 200 --fight

The last line of the output is the summary. The exit code is 1 if anything was
wrong; what the servers logged and the clients wrote down is kept then.

--tamper damages the evidence, to show that the check can fail.
"""

import argparse
import contextlib
import json
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
import ledger  # noqa: E402
import wire  # noqa: E402

PROCESSES, CLIENTS = 4, 16
COUNTERS = 4

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
        self.findings = ledger.Findings()
        self.counters = []
        self.kills = 0
        self.restarts = 0  # of servers that did not get through their start
        self.load = []
        self.gateway = None
        if options.bucket == "s3":
            self.gateway = harness.Gateway(self.directory / "gateway")
        self.bucket = harness.Bucket(options.bucket, self.directory, self.gateway)
        self.servers = [self.new_server(n) for n in range(2 if options.fight else 1)]
        self.newest = self.servers[0]

    def new_server(self, number):
        return harness.Server(self.directory / f"server-{number}", self.bucket)

    # -- servers

    def spawn(self, server):
        server.arguments = []
        if self.options.inject:
            # Each life gets faults of its own.
            server.arguments = ["--inject", f"seed={self.random.randrange(1 << 31)},"
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

    def connect(self):
        """A registered connection to the server started last."""
        connection = wire.Connection(self.newest.address)
        connection.register(read_only=True)
        return connection

    # -- load

    def set_up_counters(self):
        """The counters at zero, before anybody counts."""
        def attempt():
            try:
                with wire.Connection(self.newest.address) as connection:
                    connection.register()
                    oids = connection.call("new_oids", COUNTERS)
                    connection.commit([
                        (oid, wire.z64, ledger.stamped(-1, 0, n, value=0))
                        for n, oid in enumerate(oids)])
                    return oids
            except (wire.ServerError, wire.Closed, OSError):
                return None
        oids = harness.wait_until("the counters are set up", attempt)
        self.counters = [oid.hex() for oid in oids]
        writer = ledger.Writer(self.ledger_directory / "client-999.jsonl")
        writer.write(o=self.counters)

    def start_load(self):
        each = CLIENTS // PROCESSES
        for n in range(PROCESSES):
            job = dict(first=n * each, clients=each, counters=self.counters,
                       addresses=[server.address for server in self.servers],
                       directory=str(self.ledger_directory), seed=self.options.seed)
            self.load.append(subprocess.Popen(
                [sys.executable, str(HERE / "load.py"), json.dumps(job)],
                stdin=subprocess.PIPE,
                env=dict(__import__("os").environ,
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

    # -- the kills

    def make_database(self):
        """Without faults: a store that damages what the probe at the first
        use reads back is refused, and rightly."""
        self.servers[0].start()
        self.servers[0].stop()

    def one_server(self):
        server = self.servers[0]
        self.start(server)
        self.set_up_counters()
        self.start_load()
        self.await_progress(20)
        while self.kills < self.options.kills:
            dice = self.random.random()
            if dice < 0.1:
                # While it starts.
                time.sleep(self.random.uniform(0, 0.3))
            else:
                self.await_ready(server)
                if dice < 0.8:
                    self.await_progress(self.random.randrange(1, 60))
                time.sleep(self.random.uniform(0, 0.4))
            self.kill(server)
            self.spawn(server)
            self.say()
        self.await_ready(server)
        self.await_progress(20)

    def two_servers(self):
        one, other = self.servers
        self.start(one)
        self.set_up_counters()
        self.start_load()
        self.await_progress(20)
        self.start(other)
        while self.kills < self.options.kills:
            self.await_ready(self.newest)
            if self.random.random() < 0.8:
                self.await_progress(self.random.randrange(1, 60))
            time.sleep(self.random.uniform(0, 0.3))
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

    def say(self):
        if self.options.verbose:
            print(f"{self.kills} kills, {len(self.reader.acks)} acknowledged", flush=True)

    # -- checks

    def check_new(self):
        """Read back what was acknowledged since the last check."""
        acks = self.unchecked = getattr(self, "unchecked", []) + self.reader.update()
        if not acks or self.newest.process is None:
            return
        calls, expected = [], []
        for ack in acks:
            attempt = self.reader.attempts[ack.client, ack.seq]
            for oid in attempt.oids:
                calls.append(("loadSerial", bytes.fromhex(oid), bytes.fromhex(ack.tid)))
                expected.append((oid, ack))
        lost = []
        try:
            with self.connect() as connection:
                for (oid, ack), answer in zip(expected, connection.pipeline(calls)):
                    if isinstance(answer, wire.ServerError):
                        if answer.name != "POSKeyError":
                            return  # trouble with the bucket: again next time
                        lost.append((oid, ack))
                    elif ledger.read_stamp(answer)[0] != (ack.client, ack.seq):
                        lost.append((oid, ack))
        except TimeoutError:
            # Have Go print what it is doing.
            self.newest.process.send_signal(signal.SIGQUIT)
            self.newest.process.wait(harness.HANG)
            raise Failed(f"a call hung: see {self.newest.stderr_path}") from None
        except (wire.Closed, OSError, wire.ServerError):
            return  # again next time
        for oid, ack in lost:
            self.findings.add("lost", f"{(ack.client, ack.seq)} at {ack.tid}: "
                                      f"{oid} right after a start")
        self.unchecked = []

    def read_everything(self):
        """All revisions of all objects that anybody wrote."""
        oids = {oid for attempt in self.reader.attempts.values() for oid in attempt.oids}
        positions = {oid: wire.maxtid for oid in sorted(oids | set(self.counters))}
        revisions, following = [], {}
        with self.connect() as connection:
            while positions:
                order = list(positions)
                calls = [("loadBefore", bytes.fromhex(oid), positions[oid]) for oid in order]
                for oid, answer in zip(order, connection.pipeline(calls)):
                    if isinstance(answer, wire.ServerError):
                        if answer.name != "POSKeyError":
                            raise answer
                        if oid in following:
                            self.findings.add("foreign", f"{oid} has no revision before "
                                              f"{positions[oid].hex()}: {answer}")
                        del positions[oid]
                        continue
                    if answer is None:
                        del positions[oid]
                        continue
                    data, tid, end = answer
                    if end != following.get(oid):
                        self.findings.add("disorder", f"{oid} at {tid.hex()} ends at {end!r}, "
                                          f"not at {following.get(oid)!r}")
                    stamp, value = ledger.read_stamp(data)
                    revisions.append(ledger.Revision(oid, tid.hex(), stamp, value))
                    positions[oid] = following[oid] = tid
        return revisions

    def final_check(self):
        """Everything, as a server sees it that knows only the bucket."""
        self.options = argparse.Namespace(**{**vars(self.options), "inject": None})
        self.start(self.servers[0])
        self.reader.update()
        revisions = self.read_everything()
        verdict = ledger.judge(self.reader, revisions, self.counters)
        for kind, texts in verdict.found.items():
            for text in texts:
                self.findings.add(kind, text)
        self.check_oids_are_new()
        self.servers[0].stop()

    def check_oids_are_new(self):
        """Whoever asks now gets none that was given before."""
        given = {oid for _, oid in self.reader.oids}
        with wire.Connection(self.servers[0].address) as connection:
            connection.register()
            for oid in connection.call("new_oids", 100):
                if oid.hex() in given:
                    self.findings.add("duplicate", f"oid {oid.hex()}: given again at the end")

    # -- tampering

    def tamper(self):
        """Damage the evidence as --tamper says."""
        kind = self.options.tamper
        self.reader.update()
        if kind == "lose":
            # Delete the newest log objects of the last epoch.
            objects = self.bucket.objects("log")
            last = [p for p in objects if p.parent == objects[-1].parent]
            for path in last[-5:]:
                path.unlink()
        elif kind == "tear":
            # Claim that the newest acknowledged transaction had one object more.
            ack = max(self.reader.acks.values(), key=lambda ack: ack.tid)
            attempt = self.reader.attempts[ack.client, ack.seq]
            free = {oid for client, oid in self.reader.oids if client == ack.client}
            oid = min(free - set(attempt.oids), default="00000000ffffffff")
            self.append(ack.client, a=ack.seq, oids=[*attempt.oids, oid],
                        counter=attempt.counter, at=attempt.at)
        elif kind == "repeat":
            client, oid = self.reader.oids[-1]
            self.append(0, o=[oid])
        elif kind == "swap":
            # Claim that the newest acknowledged transaction had the tid before it.
            acks = sorted(self.reader.acks.values(), key=lambda ack: ack.tid)
            ack, before = acks[-1], acks[-2]
            self.append(ack.client, k=ack.seq, tid=before.tid, value=ack.value, at=ack.at)

    def append(self, client, **event):
        ledger.Writer(self.ledger_directory / f"client-{client}.jsonl").write(**event)

    # -- all of it

    def run(self):
        try:
            self.make_database()
            if self.options.fight:
                self.two_servers()
            else:
                self.one_server()
            self.stop_load()
            self.check_new()
            for server in self.servers:
                server.kill()
                server.check_log()
            if self.options.tamper:
                self.tamper()
            self.final_check()
        except (Failed, AssertionError, wire.ServerError, TimeoutError,
                wire.Closed, OSError) as e:
            self.findings.add("complaint", f"the run broke off: {e}")
        finally:
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
        count = self.findings.count
        return (f"seed {options.seed}: {self.kills} kills, "
                f"{len(self.reader.acks)} acknowledged, {len(unknown)} unknown, "
                f"{len(self.reader.oids)} oids; {count('lost')} lost, "
                f"{count('partial')} partial, {count('duplicate')} duplicate oids, "
                f"{count('undead') + count('foreign') + count('disorder') + count('complaint')}"
                f" other")


def parse(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="how often to kill")
    parser.add_argument("--bucket", choices=["dir", "s3"], default="dir")
    parser.add_argument("--inject", metavar="SPEC",
                        help='faults in the bucket; "all" stands for ' + ALL_FAULTS)
    parser.add_argument("--fight", action="store_true", help="two servers, one bucket")
    parser.add_argument("--seed", type=int, default=None,
                        help="of the kills and the load; by default a new one")
    parser.add_argument("--tamper", choices=["lose", "tear", "repeat", "swap"],
                        help="damage the evidence: the run has to fail")
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
