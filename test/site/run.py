"""Runs a real Zope, and a real Plone, on the server, and checks all they show.

The server, and two Zopes with it in their zope.conf, are set up as an
administrator does it, and everything else happens through their web pages: a site
is made, edited, given files; edits are undone; both Zopes change the same objects
at the same time; the database is packed. The server is stopped in order, and
killed, under the running Zopes, which must go on by themselves. A third Zope, which
has nothing in a cache, must show the same. At the end the database is exported,
judged by ZODB's own tools, and imported into another bucket (see move.py), on which
a Zope goes on.

    make site
    .site-venv/bin/python test/site/run.py --site plone --bucket s3
    .site-venv/bin/python test/site/run.py --reference

The first installs Plone, once, into .site-venv, from requirements.txt beside this
file: 350 MB, which take a minute or more. Both sites take some three minutes.

--reference does the same with ZEO's own server, which tells whether a failure is
the server's. At the end its FileStorage is what is imported. There the Zopes are restarted with the server: after its start it
gives oids out again that it gave to clients before, so two Zopes which go on make
different objects with the same oid.

The directory with all data and logs stays after a failure, and with --keep.
"""

import argparse
import concurrent.futures
import contextlib
import pathlib
import random
import re
import shutil
import socket
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "interop")]

import cms  # noqa: E402
import harness  # noqa: E402
import instance  # noqa: E402
import move  # noqa: E402
import zmi  # noqa: E402

SITES = {"zope": zmi.Site, "plone": cms.Site}
ARGUMENTS = ["--log-level", "debug", "--pack-grace", "0s"]

# Many of the pieces in which a client sends a blob, and a server keeps one.
LARGE = 9 << 20

# Both Zopes do so much at the same time, in so many threads each.
THREADS, EACH = 2, 10

# What no server may have to log in all this. Clients that go away are none of it:
# a Zope that is stopped closes its connections as it likes.
COMPLAINT = re.compile(r"^.*level=(?:WARN|ERROR)(?!.*connection lost).*$", re.M)

# The errors that Zope's users may see in all this: others changed the same objects,
# again and again; the server is away.
EXPECTED = re.compile("ConflictError|ClientDisconnected")


class Run:

    def __init__(self, site, bucket, target, directory, reference, stack):
        """What is started ends with the stack. The database ends in the target."""
        self.site = site
        self.bucket = bucket
        self.target = target
        self.directory = directory
        self.reference = reference
        self.server = harness.Server(
            directory / "server", bucket, arguments=ARGUMENTS, reference=reference)
        self.stack = stack
        self.stack.callback(self.server.kill)
        self.zopes = []
        self.started = time.monotonic()
        self.random = random.Random(site.name)
        # How often the page was edited, what it shows, and what before that.
        self.revisions = 0
        self.shown = self.shown_before = None
        self.contended = 0

    def say(self, what):
        print(f"{self.site.name}: {time.monotonic() - self.started:6.1f} s  {what}",
              flush=True)

    def start_zope(self):
        name = f"zope-{len(self.zopes) + 1}"
        zope = instance.Instance(self.directory / name, self.server)
        self.zopes.append(zope)
        self.stack.callback(zope.stop)
        return zope.start()

    # -- what is done

    def run(self):
        self.server.start()
        one, two = self.start_zope(), self.start_zope()
        self.say("two Zopes answer")
        self.site.create(one, self.random.randbytes(LARGE))
        self.edit(one)
        self.check()
        self.say("the site is made; both Zopes show it")
        self.edit(two)
        self.check()
        self.undo(one)
        self.check()
        self.undo(two)
        self.check()
        self.say("an edit is undone, and the undo undone")
        self.contend()
        self.say("both changed the same objects at once")
        self.pack(one)
        self.check()
        self.say("packed")
        for stop in (self.server.stop, self.server.kill):
            self.edit(one)
            stop()
            self.server.start()
            for zope in (one, two):
                if self.reference:
                    zope.stop()
                    zope.start()
                zope.insist(self.edit)
            self.check()
            self.edit(two)
            self.undo(one)
            self.check()
            self.say(f"both went on after the server's {stop.__name__}")
        self.start_zope()
        self.check()
        self.say("a third Zope shows the same")
        self.stop()
        move.Move(self.bucket, self.target, self.directory / "move", self.reference,
                  self.say).run()
        self.go_on()
        self.say("a Zope goes on with what was imported")

    def stop(self):
        """Stop all, and look at what they have logged."""
        for zope in self.zopes:
            zope.stop()
        self.server.stop()
        complaint = COMPLAINT.search(self.server.stderr())
        assert not complaint, "the server logged: " + complaint[0]
        for zope in self.zopes:
            strange = [error for error in zope.errors() if not EXPECTED.search(error)]
            assert not strange, f"{zope.directory}/output has {strange}"

    def go_on(self):
        """A server over the target takes the place of the one that there was."""
        self.server = harness.Server(
            self.directory / "server-2", self.target, listen=self.server.host_port,
            arguments=ARGUMENTS)
        self.stack.callback(self.server.kill)
        self.server.start()
        del self.zopes[1:]
        one, = self.zopes
        one.start()
        self.check()
        self.edit(one)
        self.check()
        self.undo(one)
        self.check()
        self.stop()

    def edit(self, zope):
        self.revisions += 1
        self._shows(f"revision-{self.revisions}")
        self.site.edit(zope, self.shown)

    def undo(self, zope):
        """Undo the last change of the page, an edit or an undo."""
        self._shows(self.shown_before)
        zope.undo_newest()

    def _shows(self, text):
        self.shown, self.shown_before = text, self.shown

    def contend(self):
        """Change the same objects through all Zopes, in several threads."""
        def some(zope, who):
            for number in range(EACH):
                zope.insist(lambda zope: self.site.contend(zope, f"{who}-{number}"))
        workers = list(enumerate(self.zopes * THREADS))
        with concurrent.futures.ThreadPoolExecutor(len(workers)) as pool:
            for done in [pool.submit(some, zope, who) for who, zope in workers]:
                done.result()
        self.contended += len(workers) * EACH

    def pack(self, zope):
        self.site.discard(zope, self.random.randbytes(LARGE))
        before, size = zope.undoable(), self._size()
        zope.pack()
        assert not set(before) & set(zope.undoable()), "can be undone after the pack"
        # The pack itself may write some, but not much.
        harness.wait_until(
            f"the bucket gets smaller by what was deleted; it has {size} bytes",
            lambda: self._size() < size - LARGE // 2)

    def _size(self):
        return sum(path.stat().st_size for path in self.bucket.objects())

    # -- what must be seen

    def check(self):
        """All Zopes show the present state: soon, for they are told of changes
        while they answer."""
        for zope in self.zopes:
            harness.wait_until(f"{zope.url} shows {self.shown}",
                               lambda: self._revisions(zope) == {self.shown})
            harness.wait_until(f"{zope.url} has {self.contended} changes",
                               lambda: self.site.contended(zope) == self.contended)
            for path, data in self.site.files.items():
                assert zope.read(path) == data, f"{zope.url}{path} has other bytes"

    def _revisions(self, zope):
        page = zope.read(self.site.page).decode()
        return set(re.findall(r"revision-\d+", page))


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--site", choices=SITES, action="append",
                        help="one of the sites; all without this")
    parser.add_argument("--bucket", choices=["directory", "s3"], default="directory")
    parser.add_argument("--reference", action="store_true",
                        help="ZEO's own server instead of s3storage")
    parser.add_argument("--keep", action="store_true",
                        help="keep the data and the logs of a run that passed")
    options = parser.parse_args()
    socket.setdefaulttimeout(2 * harness.HANG)  # a page that hangs is a failure
    for name in options.site or SITES:
        directory = pathlib.Path(tempfile.mkdtemp(prefix=f"s3storage-{name}-"))
        print("data and logs:", directory, flush=True)
        with contextlib.ExitStack() as stack:
            gateway = None
            if options.bucket == "s3":
                gateway = harness.Gateway(directory / "gateway")
                stack.callback(gateway.stop)
            bucket, target = (harness.Bucket(options.bucket, directory, gateway)
                              for _ in range(2))
            Run(SITES[name](), bucket, target, directory, options.reference, stack).run()
        if not options.keep:
            shutil.rmtree(directory)


if __name__ == "__main__":
    main()
