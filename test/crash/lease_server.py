"""The servers that grant leases, for a test to stop, start and flush."""

import glob
import os
import pathlib
import pwd
import shutil
import socket
import subprocess

import harness


class _Server:

    def __init__(self, directory, host):
        self.host, self.port = host, harness.free_port()
        self.directory = pathlib.Path(directory)
        self.directory.mkdir()
        self.user = {}
        if os.getuid() == 0:  # which such programs refuse
            nobody = pwd.getpwnam("nobody")
            os.chown(self.directory, nobody.pw_uid, nobody.pw_gid)
            self.user = dict(user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[])
        self.log = open(self.directory.with_suffix(".log"), "ab")
        self.process = None

    def start(self):
        self.process = subprocess.Popen(
            self.command(), stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
            cwd=self.directory, **self.user)
        harness.wait_until("the server of the lease answers", self.answers)
        return self

    def stop(self):
        """At once, with all connections."""
        if self.process is not None:
            self.process.send_signal(self.END)
            self.process.wait()
            self.process = None


class Postgres(_Server):

    END = 3  # SIGQUIT, at which it ends its children

    def __init__(self, directory, host):
        super().__init__(directory, host)
        found = [shutil.which("initdb")] if shutil.which("initdb") else sorted(
            glob.glob("/usr/lib/postgresql/*/bin/initdb"))
        assert found, "no PostgreSQL here: run make servers, or install the package postgresql"
        self.bin = pathlib.Path(os.path.realpath(found[-1])).parent
        self.data = self.directory / "data"
        subprocess.run([self.bin / "initdb", "-D", self.data, "-U", "lease", "-A", "trust", "-N"],
                       check=True, stdout=self.log, stderr=self.log, cwd=self.directory,
                       **self.user)
        with open(self.data / "pg_hba.conf", "a") as file:
            file.write("host all all 10.99.0.0/24 trust\n")
        self.url = f"postgres://lease@{host}:{self.port}/postgres?sslmode=disable"

    def command(self):
        return [self.bin / "postgres", "-D", self.data, "-p", str(self.port),
                "-h", self.host, "-k", "", "-F"]

    def answers(self):
        return subprocess.run([self.bin / "pg_isready", "-q", "-h", self.host,
                               "-p", str(self.port)]).returncode == 0


class Memcached(_Server):

    END = 9

    def __init__(self, directory, host):
        super().__init__(directory, host)
        self.url = f"memcached://{host}:{self.port}"

    def command(self):
        return ["memcached", "-l", self.host, "-p", str(self.port), "-U", "0", "-m", "8"]

    def answers(self):
        try:
            socket.create_connection((self.host, self.port), 1).close()
        except OSError:
            return False
        return True

    def flush(self):
        with socket.create_connection((self.host, self.port), harness.HANG) as connection:
            connection.sendall(b"flush_all\r\n")
            assert connection.recv(100) == b"OK\r\n"


KINDS = {"postgres": Postgres, "memcached": Memcached}
