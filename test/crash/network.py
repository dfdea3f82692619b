"""A network of its own for a test: one namespace for each node, whose cable can be cut.

The test runs in a network namespace with a bridge, and so do the clients, the S3
server and the server of the lease, each with an address. Each node has a namespace
with one interface on that bridge. Nothing of this is reached from outside, and
nothing is left of it when the test has ended, however it ends: the namespaces live
as long as the processes in them, and those end with the test.

Linux has namespaces, but not everybody may make them: see inside().
"""

import os
import subprocess
import sys
import time

CLIENTS, S3, LEASE = "10.99.0.1", "10.99.0.2", "10.99.0.3"
_NODE = "10.99.0.{}"
_NOBODY = "02:00:00:00:00:63"  # no interface has this address
_INSIDE = "CRASH_NETWORK"
_PROCESSES = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


def inside():
    """Whether this program runs in such a network."""
    return _INSIDE in os.environ


def rerun():
    """Run this program again in a network of its own, and return its exit status;
    None if the machine does not allow that."""
    for more in ([], ["--user", "--map-current-user", "--keep-caps"]):
        unshare = ["unshare", *more, *_PROCESSES]
        try:
            tried = subprocess.run([*unshare, "ip", "link", "add", "hub", "type", "bridge"],
                                   capture_output=True, stdin=subprocess.DEVNULL)
        except FileNotFoundError:
            return None
        if tried.returncode == 0:
            return subprocess.call([*unshare, sys.executable, *sys.argv],
                                   env=dict(os.environ, **{_INSIDE: "1"}))
    return None


class Network:

    def __init__(self):
        self.holders = []  # a process for each node, that keeps its namespace
        _ip("link", "set", "lo", "up")
        _ip("link", "add", "hub", "type", "bridge")
        for address in (CLIENTS, S3, LEASE):
            _ip("address", "add", f"{address}/24", "dev", "hub")
        _ip("link", "set", "hub", "up")

    def add_node(self):
        """A namespace for a node: its address, and what its command begins with."""
        number = len(self.holders)
        ours = os.readlink("/proc/self/ns/net")
        holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self.holders.append(holder)
        while os.readlink(f"/proc/{holder.pid}/ns/net") == ours:
            assert holder.poll() is None, "no namespace for a node"
            time.sleep(0.01)
        _ip("link", "add", f"node{number}", "type", "veth",
            "peer", "name", "eth0", "netns", str(holder.pid))
        _ip("link", "set", f"node{number}", "master", "hub", "up")
        address = _NODE.format(11 + number)
        self._of(number, "link", "set", "lo", "up")
        self._of(number, "address", "add", f"{address}/24", "dev", "eth0")
        self._of(number, "link", "set", "eth0", "up")
        return address, self._enter(number)

    def cut(self, number):
        """Pull a node's cable. No connection ends; nothing comes through."""
        _ip("link", "set", f"node{number}", "down")

    def cut_from(self, number, address):
        """Have all that a node sends to an address go nowhere."""
        self._of(number, "neighbour", "replace", address, "lladdr", _NOBODY,
                 "dev", "eth0", "nud", "permanent")

    def heal(self, number):
        _ip("link", "set", f"node{number}", "up")
        self._of(number, "neighbour", "flush", "dev", "eth0", "nud", "permanent")

    def close(self):
        for holder in self.holders:
            holder.kill()
            holder.wait()

    def _enter(self, number):
        return ["nsenter", f"--net=/proc/{self.holders[number].pid}/ns/net"]

    def _of(self, number, *arguments):
        subprocess.run([*self._enter(number), "ip", *arguments], check=True)


def _ip(*arguments):
    subprocess.run(["ip", *arguments], check=True)
