"""Kills the commands that write to a bucket, and has them run again.

import, pack, snapshot create and delete, restore and branch get SIGKILL at random
moments, half of the times not before they have written something. After each kill
`check --full` must find no damage, and an export must be of what the database was
before the command or is after it; of an import, the first part. Then the command is
run again and must do its work: what is in the database in the end is what it is
without kills. At last a sweep must leave nothing that nothing needs.

    python test/crash/commands.py --kills 20 --bucket s3

The last line of the output is the summary. After a failure the buckets are kept.
"""

import argparse
import collections
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "interop")]

import datafs  # noqa: E402
import harness  # noqa: E402
import source  # noqa: E402

# All that check may warn of: a command that was killed, or made a branch, has left no
# hint, and none is written before there is a new base.
HINT = "warning: get head"


class Run:

    def __init__(self, options, directory, gateway):
        self.options = options
        self.directory = directory
        self.gateway = gateway
        self.random = random.Random(options.seed)
        self.source = source.Source(directory / "source", self.random, options.transactions)
        self.took = {}  # seconds that a command takes that nobody kills
        self.kills = collections.Counter()
        self.spared = collections.Counter()  # had ended before the moment came
        self.exports = 0

    def run(self):
        for commands in (self.imports, self.packs, self.snapshots, self.restores,
                         self.branches):
            self.wanted = self.options.kills
            while self.wanted > 0:
                commands()

    # -- commands

    def do(self, *arguments):
        """Run a command to its end."""
        began = time.monotonic()
        said = harness.tool(*arguments)
        self.took[arguments[0]] = time.monotonic() - began
        return said

    def killed(self, bucket, *arguments):
        """Start a command that writes to the bucket, and kill it."""
        before = _names(bucket.path)
        process = subprocess.Popen(
            [harness.BINARY, *map(str, arguments)], stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=harness.environment())
        most = self.took[arguments[0]]
        if self.random.random() < 0.5:
            while process.poll() is None and _names(bucket.path) == before:
                pass
            most *= self.random.random()
        time.sleep(self.random.uniform(0, most))
        process.kill()
        if process.wait():
            assert process.returncode == -9, f"{arguments} ended with {process.returncode}"
            self.kills[arguments[0]] += 1
            self.wanted -= 1
        else:
            self.spared[arguments[0]] += 1

    def new_bucket(self):
        return harness.Bucket(self.options.bucket, self.directory, self.gateway)

    def full(self):
        """A bucket that holds it all, and the snapshots half and whole."""
        bucket = self.new_bucket()
        self.do("import", self.source.half, bucket.url, "--blobs", self.source.half_blobs)
        self.do("snapshot", "create", bucket.url, "half")
        self.do("import", self.source.file, bucket.url, "--blobs", self.source.blobs)
        self.do("snapshot", "create", bucket.url, "whole")
        return bucket

    # -- what is there

    def check(self, bucket):
        """No damage; returns the last transaction."""
        said = harness.tool("check", "--full", bucket.url)
        for line in said.splitlines():
            assert line.startswith(HINT) or not line.startswith("warning:"), said
        last = re.search(r"^last transaction: (\w+)", said, re.M)
        return last and last[1]

    def export(self, bucket):
        """Transactions and blobs."""
        self.exports += 1
        file, blobs = (self.directory / f"export-{self.exports}{end}" for end in (".fs", ""))
        harness.tool("export", bucket.url, file, "--blobs", blobs)
        there = datafs.read(file), datafs.blobs(blobs)
        shutil.rmtree(blobs)
        for path in self.directory.glob(f"export-{self.exports}.fs*"):
            path.unlink()
        return there

    def swept(self, *buckets):
        """A server leaves no object that nothing needs."""
        for bucket in buckets:
            server = harness.Server(self.directory / f"server-{bucket.path.name}", bucket,
                                    arguments=["--pack-grace", "0s", "--sweep-after", "1ns"])
            server.start()
            try:
                harness.wait_until(
                    "nothing superfluous is in the bucket",
                    lambda: "nothing needs" not in harness.tool("check", bucket.url))
            finally:
                server.stop()
            self.check(bucket)

    # -- each command

    def imports(self):
        self.do("import", self.source.file, self.new_bucket().url,
                "--blobs", self.source.blobs)  # for the time that it takes
        bucket = self.new_bucket()
        command = ["import", self.source.file, bucket.url, "--blobs", self.source.blobs]
        transactions, blobs = self.source.whole
        for _ in range(4):
            self.killed(bucket, *command)
            if not _is_database(bucket):
                harness.tool("check", "--full", bucket.url, status=2)
                continue
            self.check(bucket)
            part, _ = self.export(bucket)
            datafs.same(transactions[:len(part)], part)
        self.do(*command)
        whole, there = self.export(bucket)
        datafs.same(transactions, whole)
        assert there == blobs
        self.swept(bucket)

    def packs(self):
        undisturbed, bucket = self.full(), self.full()
        self.do("pack", undisturbed.url)
        packed = self.export(undisturbed)
        assert packed != self.source.whole
        for _ in range(4):
            self.killed(bucket, "pack", bucket.url)
            self.check(bucket)
            if self.export(bucket) != self.source.whole:
                break
        self.do("pack", bucket.url)
        assert self.export(bucket) == packed
        self.swept(bucket)

    def snapshots(self):
        bucket = self.full()
        for name in ("one", "two"):
            for command in ("create", "delete"):
                there = command == "create"
                self.killed(bucket, "snapshot", command, bucket.url, name)
                self.check(bucket)
                if (name in self.names(bucket)) != there:
                    self.do("snapshot", command, bucket.url, name)
                assert (name in self.names(bucket)) == there
        assert self.export(bucket) == self.source.whole
        self.swept(bucket)

    def names(self, bucket):
        """Of snapshots."""
        lines = harness.tool("snapshot", "list", bucket.url).splitlines()[1:]
        return [line.split()[0] for line in lines]

    def restores(self):
        bucket = self.full()
        self.do("restore", bucket.url, "--to", "whole")  # for the time that it takes
        states = {"half": self.source.first, "whole": self.source.whole}
        now = "whole"
        for to in ("half", "whole", "half"):
            last = self.check(bucket)
            self.killed(bucket, "restore", bucket.url, "--to", to)
            # What clients may have seen is not ahead of the database.
            assert self.check(bucket) >= last
            assert self.restored(bucket) in (states[now], states[to])
            self.do("restore", bucket.url, "--to", to)
            assert self.restored(bucket) == states[to]
            now = to
        self.swept(bucket)

    def restored(self, bucket):
        """Without the mark that a restore leaves."""
        transactions, blobs = self.export(bucket)
        return [t for t in transactions if not t[3].startswith(b"restored to ")], blobs

    def branches(self):
        parent, other = self.full(), self.new_bucket()
        self.do("branch", other.url, "--from", parent.url)  # for the time that it takes
        branches = [(other, self.source.whole)]
        for at, state in (((), self.source.whole), (("--at", "half"), self.source.first)):
            branch = self.new_bucket()
            command = ["branch", branch.url, "--from", parent.url, *at]
            known = self.names(parent)
            self.killed(branch, *command)
            self.check(parent)
            assert self.export(parent) == self.source.whole
            if not _is_database(branch):
                self.do(*command)  # goes on where that was
            made = set(self.names(parent)) - set(known)
            assert len(made) == (0 if at else 1), made
            branches.append((branch, state))
        self.do("snapshot", "delete", parent.url, "whole")
        self.do("pack", parent.url)
        self.swept(parent)
        for branch, state in branches:
            self.check(branch)
            assert self.export(branch) == state
        self.swept(branch)
        assert self.export(branch) == state

    def summary(self):
        def said(counts):
            return ", ".join(f"{name} {n}" for name, n in counts.items()) or "none"
        return (f"seed {self.options.seed}: {self.kills.total()} kills ({said(self.kills)}); "
                f"ended before: {said(self.spared)}; {self.exports} exports compared")


def _names(directory):
    return {os.path.join(where, name) for where, _, names in os.walk(directory)
            for name in names}


def _is_database(bucket):
    return (bucket.path / "format").exists()


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="of each command")
    parser.add_argument("--bucket", choices=["dir", "s3"], default="dir")
    parser.add_argument("--transactions", type=int, default=100, help="in the database")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 31),
                        help="of the database and the kills; by default a new one")
    options = parser.parse_args(arguments)
    directory = pathlib.Path(tempfile.mkdtemp(prefix="crash-commands-"))
    print(f"seed {options.seed}; the buckets are in {directory}", flush=True)
    gateway = harness.Gateway(directory / "gateway") if options.bucket == "s3" else None
    try:
        run = Run(options, directory, gateway)
        run.run()
    finally:
        if gateway:
            gateway.stop()
    harness.remove(directory)
    print(run.summary())


if __name__ == "__main__":
    main()
