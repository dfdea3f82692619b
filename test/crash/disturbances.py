"""What can be done to nodes, and what came of it."""

import collections
import contextlib
import os
import signal
import statistics
import threading
import time

import harness
import network

LEASE = 5  # seconds after which a silent node has lost it


class Disturbance:
    """One thing that was done, to some nodes or to none."""

    def __init__(self, kind, nodes):
        self.kind, self.nodes = kind, nodes
        self.start, self.end = time.monotonic(), None
        self.reads, self.longest, self.failed = 0, 0, []  # at the other nodes

    def covers(self, since):
        """Whether it was still going on then, or later."""
        return self.end is None or self.end > since


class Disturber:
    """Disturbs the nodes of a run."""

    def __init__(self, run):
        self.run = run
        self.random = run.random
        self.done = []  # Disturbances
        self.lock = threading.Lock()  # of what readers add to them
        self.loads = []  # averages, of the machine
        self.leads = None  # the node that led before

    @contextlib.contextmanager
    def disturbance(self, kind, *nodes):
        """Within it something is done to the nodes, or to what they need, and made good
        again. It ends when all is well."""
        event = Disturbance(kind, nodes)
        with self.lock:
            self.done.append(event)
        self.run.say(f"{kind}: {', '.join(node.directory.name for node in nodes) or '-'}")
        yield event
        healed = time.monotonic()
        for reader in self.run.readers:
            if reader.node in nodes:
                reader.reset()
        self.await_writes()
        self.run.wait("each node can be read",
                  lambda: all(reader.last > healed for reader in self.run.readers))
        self.run.leader()
        with self.lock:
            event.end = time.monotonic()
        self.loads.append(os.getloadavg()[0])
        self.run.say(f"    no commit for {self.gap(event):.2f} s; {len(event.failed)} of "
                 f"{event.reads} reads at other nodes failed")

    def hold(self, seconds):
        """Wait for a time, and then for writes, but not for ever."""
        start = time.monotonic()
        self.run.wait("time passes", lambda: time.monotonic() > start + seconds and (
            self.run.written(start) or time.monotonic() > start + seconds + 2 * LEASE))

    def await_writes(self):
        since = time.monotonic()
        self.run.wait("writes go on", lambda: self.run.written(since))

    def was_read(self, node, start, error):
        """Take note of a read at a node that was begun then."""
        with self.lock:
            now = [event for event in self.done[-2:] if event.covers(start)]
            if error and not now:
                self.run.findings.add("complaint", f"a read at {node.directory.name} failed while "
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
            self.await_writes()
            node.start()

    def killed(self, node):
        with self.disturbance(self.role(node) + " killed", node):
            node.kill()
            self.await_writes()
            node.start()

    def killed_and_started(self, node):
        with self.disturbance(self.role(node) + " killed, started at once", node):
            node.kill()
            node.start()

    def all_killed(self, _):
        with self.disturbance("all killed, started at once", *self.run.nodes):
            for node in self.run.nodes:
                node.kill()
            for node in self.run.nodes:
                node.spawn()
            for node in self.run.nodes:
                harness.wait_until("the server is ready", node.ready)

    def paused(self, node):
        with self.disturbance(self.role(node) + " paused", node):
            node.process.send_signal(signal.SIGSTOP)
            self.hold(LEASE + self.random.uniform(2, 5))
            node.process.send_signal(signal.SIGCONT)

    def cut_off(self, node):
        with self.cut(node, "cut off"):
            self.run.network.cut(self.run.nodes.index(node))

    def cut_from_bucket(self, node):
        with self.cut(node, "cut off from S3"):
            self.run.network.cut_from(self.run.nodes.index(node), network.S3)

    def cut_from_nodes(self, node):
        with self.cut(node, "cut off from the other nodes"):
            for other in self.run.nodes:
                if other is not node:
                    self.run.network.cut_from(self.run.nodes.index(node), other.address[0])

    @contextlib.contextmanager
    def cut(self, node, what):
        with self.disturbance(f"{self.role(node)} {what}", node):
            yield
            self.hold(LEASE + self.random.uniform(2, 5))
            self.run.network.heal(self.run.nodes.index(node))

    def s3_restarted(self, _):
        with self.disturbance("S3 stopped for some seconds"):
            self.run.gateway.stop()
            time.sleep(self.random.uniform(1, 5))
            self.run.gateway.start()

    def lease_restarted(self, _):
        with self.disturbance(f"{self.run.options.lease} restarted"):
            self.run.lease.stop()
            self.run.lease.start()
            self.hold(LEASE)

    def lease_down(self, leader):
        with self.disturbance(f"{self.run.options.lease} stopped, leader killed", leader):
            self.run.lease.stop()
            leader.kill()
            time.sleep(self.random.uniform(1, 3))
            self.run.lease.start()
            self.await_writes()
            leader.start()

    def lease_flushed(self, _):
        with self.disturbance("memcached flushed"):
            self.run.lease.flush()
            self.hold(LEASE)

    def role(self, node):
        return "leader" if node is self.leads else "follower"

    def kinds(self):
        """What can be done here: (what, whether to the leader, or None for neither)."""
        kinds = [(self.stopped, True), (self.killed, True), (self.paused, True),
                 (self.stopped, False), (self.killed, False), (self.paused, False),
                 (self.killed_and_started, True), (self.all_killed, None)]
        if self.run.network:
            kinds += [(self.cut_from_nodes, True), (self.cut_from_nodes, False)]
            if self.run.gateway:  # a directory cannot be cut off
                kinds += [(self.cut_off, True), (self.cut_off, False),
                          (self.cut_from_bucket, True), (self.cut_from_bucket, False)]
        if self.run.gateway:
            kinds.append((self.s3_restarted, None))
        if self.run.lease:
            kinds += [(self.lease_restarted, None), (self.lease_down, True)]
        if self.run.options.lease == "memcached":
            kinds.append((self.lease_flushed, None))
        return [(what, leader) for what, leader in kinds if self.run.options.only in what.__name__]

    def disturb(self):
        """Each kind once, in any order, again and again until the time is over."""
        until = time.monotonic() + 60 * self.run.options.minutes
        while True:
            kinds = self.kinds()
            self.random.shuffle(kinds)
            for what, leader in kinds:
                self.leads = self.run.leader()
                followers = [node for node in self.run.nodes if node is not self.leads]
                what(self.leads if leader else self.random.choice(followers))
                if time.monotonic() > until and len(self.done) >= len(kinds):
                    return

    def failed_look(self, address, at, error):
        """Take note of a client's read that failed: at a node that lived?"""
        for event in self.done:
            if event.start <= at + harness.HANG and event.end > at:
                if all(node.address != address for node in event.nodes) and address:
                    event.failed.append(f"client at {address}: {error}")
                return
        self.run.findings.add("complaint", f"a client's read at {address} failed while nothing "
                                       f"was wrong: {error}")

    def gap(self, event):
        """The longest time in which no client was told of a commit."""
        times = sorted(ack.at for ack in self.run.ledger.acks.values()
                       if event.start - 60 < ack.at < event.end + 60)
        return max((after - before for before, after in zip(times, times[1:])
                    if after > event.start and before < event.end), default=0)

    def table(self):
        """Figures for each kind of disturbance."""
        kinds = collections.defaultdict(list)
        for event in self.done:
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
        return "\n".join(rows)

