"""Starts and stops the programs that the tests talk to.

A Bucket is a fresh place to keep a database, a Server runs over one or more of
them, a Gateway is the real S3 server that the buckets of kind s3 live in, a
Catalog the PostgreSQL server that lists the objects of those of kind eventual.

The environment says what is tested:

S3STORAGE_BINARY      the server, by default bin/s3storage-race
VERSITYGW             the S3 gateway, by default .tools/versitygw
INTEROP_SERVER        "reference" runs the tests against ZEO's own server, which
                      proves those tests that do not need a bucket
INTEROP_FOLLOWER      if set, every server that a test starts follows another one,
                      which is started first
"""

import itertools
import os
import pathlib
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("S3STORAGE_BINARY") or str(ROOT / "bin" / "s3storage-race")
VERSITYGW = os.environ.get("VERSITYGW") or str(ROOT / ".tools" / "versitygw")
REFERENCE = os.environ.get("INTEROP_SERVER") == "reference"
FOLLOWER = bool(os.environ.get("INTEROP_FOLLOWER"))

# How long to wait before something counts as hung.
HANG = 60

ACCESS_KEY = "tester"
SECRET_KEY = "not-a-secret"

# What the server must never print.
ALARMS = re.compile(r"DATA RACE|^panic:|^fatal error:|panic serving|\[recovered\]", re.M)


def wait_until(what, condition, timeout=HANG, interval=0.01):
    """Poll until condition() is true, and return what it returned."""
    give_up = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > give_up:
            raise AssertionError(f"waited {timeout} s in vain: {what}")
        time.sleep(interval)


def free_port(host="127.0.0.1"):
    """A port that is free now, and that no outgoing connection will take.

    Below the ephemeral range: a client that polls for a restarting server on an
    ephemeral port can end up connected to itself.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for _ in range(200):
        port = random.SystemRandom().randrange(12000, 32000)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
        return port
    raise AssertionError("no free port")


def _keeps_attributes(directory):
    """Whether files there can have extended attributes."""
    probe = directory / "probe"
    probe.touch()
    try:
        os.setxattr(probe, "user.probe", b"1")
    except (OSError, AttributeError):
        return False
    finally:
        probe.unlink()
    return True


def environment():
    """That of a program that reaches the gateway's buckets."""
    environment = dict(
        os.environ,
        AWS_ACCESS_KEY_ID=ACCESS_KEY, AWS_SECRET_ACCESS_KEY=SECRET_KEY,
        AWS_EC2_METADATA_DISABLED="true")
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        environment.pop(name, None)
    return environment


def status(bucket, storage="1"):
    """The exit status and the output of s3storage status."""
    done = subprocess.run([BINARY, "status", bucket.url, "--storage", storage],
                          env=dict(environment(), GORACE="atexit_sleep_ms=0"),
                          capture_output=True, text=True, timeout=HANG)
    return done.returncode, done.stdout + done.stderr


def get(address, path):
    """The status and the text of an answer by HTTP."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=HANG) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        with e:
            return e.code, e.read().decode()


class Gateway:
    """versitygw over a directory, by default on loopback."""

    def __init__(self, directory, host="127.0.0.1"):
        self.directory = pathlib.Path(directory)
        self.host, self.port = host, free_port()
        self.start()

    def start(self):
        """Start it, also again."""
        root = self.directory / "root"
        (root / "bucket").mkdir(parents=True, exist_ok=True)
        metadata = []
        if not _keeps_attributes(root):
            (self.directory / "sidecar").mkdir(exist_ok=True)
            metadata = ["--sidecar", str(self.directory / "sidecar")]
        self.log = open(self.directory / "gateway.log", "ab")
        self.process = subprocess.Popen(
            [VERSITYGW, "--port", f"{self.host}:{self.port}",
             "--access", ACCESS_KEY, "--secret", SECRET_KEY,
             "--region", "us-east-1", "--quiet", "--keep-alive",
             "posix", *metadata, str(root)],
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

        def answers():
            if self.process.poll() is not None:
                raise AssertionError("the S3 gateway ended: " + (
                    self.directory / "gateway.log").read_text(errors="replace"))
            try:
                socket.create_connection((self.host, self.port), 1).close()
            except OSError:
                return False
            return True
        wait_until("the S3 gateway answers", answers)

    def url(self, prefix):
        return (f"s3://bucket/{prefix}?endpoint=http://{self.host}:{self.port}"
                "&region=us-east-1&path-style=true")

    def objects(self, prefix):
        """The directory in which the gateway keeps what is below the prefix."""
        return self.directory / "root" / "bucket" / prefix

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


class Catalog:
    """PostgreSQL over a directory, on loopback."""

    def __init__(self, directory):
        found = sorted(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb"))
        initdb = found[-1] if found else shutil.which("initdb")
        if not initdb:
            raise AssertionError("no PostgreSQL server here: run make servers, "
                                 "or install the package postgresql")
        self.bin = pathlib.Path(initdb).parent
        # It does not run as root, nor where only root may look.
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="catalog-"))
        self.user = {}
        if os.getuid() == 0:
            self.user = {"user": "nobody", "group": "nogroup", "extra_groups": []}
            shutil.chown(self.directory, "nobody", "nogroup")
        self.port = free_port()
        self.url = f"postgres://tester@127.0.0.1:{self.port}/postgres?sslmode=disable"
        subprocess.run([initdb, "-D", self.directory, "-U", "tester", "-A", "trust", "-N"],
                       stdout=subprocess.DEVNULL, check=True, cwd=self.directory, **self.user)
        self.log = open(pathlib.Path(directory) / "catalog.log", "wb")
        self.start()

    def start(self):
        self.process = subprocess.Popen(
            [self.bin / "postgres", "-D", self.directory, "-p", str(self.port),
             "-h", "127.0.0.1", "-k", "", "-F"], cwd=self.directory,
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, **self.user)
        wait_until("PostgreSQL answers", self.answers)

    def answers(self):
        if self.process.poll() is not None:
            raise AssertionError("PostgreSQL ended: see " + self.log.name)
        return subprocess.run([self.bin / "pg_isready", "-q", "-h", "127.0.0.1",
                               "-p", str(self.port)]).returncode == 0

    def copied(self):
        """Whether all objects that are in the catalog are in the stores."""
        return not self._names("stored IS NULL AND size IS NOT NULL")

    def unfinished(self):
        """The names of streams that are no objects, which servers clean up after a day."""
        return self._names("size IS NULL")

    def _names(self, condition):
        query = f"SELECT name FROM s3storage_object WHERE {condition}"
        return set(subprocess.run([self.bin / "psql", "-XAtc", query, self.url], text=True,
                                  capture_output=True, check=True).stdout.split())

    def kill(self):
        """Stop as a power cut does, but for the files."""
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait()

    def stop(self):
        self.kill()
        self.log.close()
        remove(self.directory)


# How long a bucket of kind eventual hides what was written, at most.
PROPAGATION = "500ms"


class Bucket:
    """A fresh place for one database: its URL, and where its objects lie.

    One of kind eventual is a directory that is as S3 was in 2006, with a catalog.
    """

    _numbers = itertools.count()

    def __init__(self, kind, directory, gateway=None):
        self.kind = kind
        self.options = []  # of a server
        self.faults = ""
        if kind == "eventual":
            self.options = ["--catalog", gateway.url, "--propagation", PROPAGATION]
            self.faults = "eventual=1:" + PROPAGATION
        number = next(self._numbers)
        if kind == "s3":
            prefix = f"db-{os.getpid()}-{number}"
            self.url = gateway.url(prefix)
            self.path = gateway.objects(prefix)
        else:
            self.path = pathlib.Path(directory) / f"bucket-{number}"
            self.url = str(self.path)

    def objects(self, under=""):
        """Paths of all objects below the given key prefix, sorted by key."""
        return sorted(p for p in (self.path / under).rglob("*") if p.is_file())


class Server:
    """One server process over one or more buckets.

    Every start after the first listens on the same addresses again, so that
    clients find the server back.
    """

    def __init__(self, directory, storages, *, listen=None, msgpack=False,
                 arguments=(), reference=REFERENCE, read_only=False,
                 pack_gc=True, transaction_timeout=None, tls=None):
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        # One unnamed bucket, or {storage name: bucket}.
        self.storages = storages if isinstance(storages, dict) else {"1": storages}
        self.named = isinstance(storages, dict)
        self.listen = [listen] if isinstance(listen, str) else list(listen or [])
        if not self.listen:
            self.listen = [f"127.0.0.1:{free_port()}"]
        self.msgpack = msgpack
        self.arguments = list(arguments)
        self.reference = reference
        self.read_only = read_only
        self.transaction_timeout = transaction_timeout  # whole seconds
        # {"certificate": path, "key": path, "authenticate": path}, in words of ZEO's.
        self.tls = tls
        self.pack_gc = pack_gc
        self.process = None
        self.leader = self.leader_port = None  # with INTEROP_FOLLOWER
        self.cwd = self.directory
        self.starts = 0
        self.ready_lines = []

    # -- what it prints

    @property
    def stdout_path(self):
        return self.directory / f"stdout-{self.starts}"

    @property
    def stderr_path(self):
        return self.directory / f"stderr-{self.starts}"

    def stdout(self):
        return self.stdout_path.read_text(errors="replace")

    def stderr(self):
        """Everything that it logged, in all its lives."""
        return "".join(
            (self.directory / f"stderr-{n}").read_text(errors="replace")
            for n in range(1, self.starts + 1))

    # -- start and stop

    def command(self, listen=None):
        if self.reference:
            return self._reference_command()
        command = [BINARY, "serve"]
        for address in listen or self.listen:
            command += ["--listen", address]
        for name, bucket in self.storages.items():
            command += (["--storage", f"{name}={bucket.url}"] if self.named
                        else ["--bucket", bucket.url])
        if self.msgpack:
            command.append("--msgpack")
        if self.read_only:
            command.append("--read-only")
        if self.transaction_timeout:
            command += ["--transaction-timeout", f"{self.transaction_timeout}s"]
        if self.tls:
            command += ["--tls-cert", self.tls["certificate"],
                        "--tls-key", self.tls["key"],
                        "--tls-client-ca", self.tls["authenticate"]]
        if not self.pack_gc:
            command.append("--no-pack-gc")
        arguments = self.arguments
        for bucket in self.storages.values():
            command += bucket.options
            if bucket.faults:
                arguments = list(arguments)
                if "--inject" not in arguments:
                    arguments += ["--inject", ""]
                at = arguments.index("--inject") + 1
                arguments[at] = ",".join(filter(None, [arguments[at], bucket.faults]))
        return command + arguments

    def _reference_command(self):
        [listen] = self.listen
        conf = ["<zeo>", f"  address {listen.removeprefix('unix:')}",
                "  invalidation-queue-size 10000",
                f"  msgpack {'true' if self.msgpack else 'false'}",
                f"  read-only {'true' if self.read_only else 'false'}"]
        if self.transaction_timeout:
            conf.append(f"  transaction-timeout {self.transaction_timeout}")
        if self.tls:
            conf += ["  <ssl>", *(f"    {k} {v}" for k, v in self.tls.items()), "  </ssl>"]
        conf.append("</zeo>")
        for name, bucket in self.storages.items():
            bucket.path.mkdir(parents=True, exist_ok=True)
            conf += [f"<filestorage {name}>",
                     f"  path {bucket.path / 'Data.fs'}",
                     f"  blob-dir {bucket.path / 'blobs'}",
                     f"  pack-gc {'true' if self.pack_gc else 'false'}",
                     "  pack-keep-old false",
                     "</filestorage>"]
        path = self.directory / "zeo.conf"
        path.write_text("\n".join(conf) + "\n")
        return [sys.executable, "-m", "ZEO.runzeo", "-C", str(path)]

    def spawn(self):
        """Start without waiting until it is ready."""
        assert self.process is None
        if FOLLOWER and not self.reference:
            self._start_leader()
        self.starts += 1
        self.ready_lines = []
        with open(self.stdout_path, "wb") as out, open(self.stderr_path, "wb") as err:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                env=environment(), cwd=self.cwd)

    def _start_leader(self):
        """Start a server that leads, so that this one follows."""
        self._end_leader()
        self.leader_port = self.leader_port or free_port()
        log = open(self.directory / f"leader-{self.starts + 1}", "wb")
        with log:
            self.leader = subprocess.Popen(
                self.command([f"127.0.0.1:{self.leader_port}"]), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, env=environment(), cwd=self.cwd)
        wait_until("the leader is ready", lambda: self.leader.poll() is not None
                   or b"listening on" in pathlib.Path(log.name).read_bytes())

    def _end_leader(self):
        if self.leader is not None:
            self.leader.kill()
            self.leader.wait()
            self.leader = None

    def ready(self):
        """Whether all listeners stand; an error if the server has ended."""
        if self.process.poll() is not None:
            raise AssertionError(
                f"the server ended with {self.process.returncode}:\n"
                + self.stdout() + self.stderr_path.read_text(errors="replace")[-8000:])
        if self.reference:
            try:
                self.dial().close()
            except OSError:
                return False
            return True
        # For each address what is behind it: TLS, read-only.
        self.ready_lines = re.findall(
            r"^listening on (.+?)((?:, (?:TLS|read-only))*)$", self.stdout(), re.M)
        return len(self.ready_lines) >= len(self.listen)

    def start(self):
        self.spawn()
        wait_until("the server is ready", self.ready)
        if not self.reference:
            self.listen = [address for address, _ in self.ready_lines[:len(self.listen)]]
        return self

    def terminate(self):
        """Tell it to stop in order."""
        self.process.send_signal(signal.SIGTERM)

    def stop(self):
        """Stop in order, and insist that it does."""
        if self.process is not None:
            self.terminate()
            self.wait_stopped()

    def wait_stopped(self):
        """Wait for the end of a server that was told to stop."""
        process, self.process = self.process, None
        try:
            code = process.wait(HANG)
            self._end_leader()
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGQUIT)  # have Go print its goroutines
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            raise AssertionError(
                "the server did not stop on SIGTERM:\n"
                + self.stderr_path.read_text(errors="replace")[-20000:])
        self.check_log()
        if not self.reference:
            assert code == 0, (
                f"exit code {code} after SIGTERM:\n" + self.stderr()[-8000:])

    def kill(self):
        """Stop as a power cut does."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()
        self._end_leader()

    def restart(self):
        self.stop()
        return self.start()

    def check_log(self):
        log = self.stderr()
        alarm = ALARMS.search(log)
        assert not alarm, "the server's log:\n" + log[max(0, alarm.start() - 500):][:20000]

    # -- how to reach it

    @property
    def address(self):
        """The first address, as ClientStorage wants it."""
        return parse_address(self.listen[0])

    @property
    def host_port(self):
        return self.listen[0]

    def dial(self, timeout=HANG):
        """A plain socket to the server."""
        return dial(self.address, timeout)


def parse_address(text):
    if text.startswith("unix:"):
        return text[len("unix:"):]
    if text.startswith("/"):
        return text
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


def dial(address, timeout=HANG):
    if isinstance(address, str):
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(timeout)
        try:
            connection.connect(address)
        except BaseException:
            connection.close()
            raise
        return connection
    connection = socket.create_connection(address, timeout)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def remove(path):
    shutil.rmtree(path, ignore_errors=True)


def tool(*arguments, status=0):
    """Run the program to its end, and return what it prints."""
    done = subprocess.run([BINARY, *map(str, arguments)],
                          capture_output=True, text=True, timeout=HANG,
                          # The race detector waits a second at the end, by default.
                          env=dict(environment(), GORACE="atexit_sleep_ms=0"))
    assert not ALARMS.search(done.stderr), done.stderr
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout
