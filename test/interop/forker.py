"""Starts s3storage where the suites of ZEO and ZODB start ZEO's own server.

The suites have one way to start a server, start_zeo_server. A Forker has a
method of that name, with the same arguments and the same answer: it reads the
configuration of ZEO and of the storages, and starts `s3storage serve` with
options that mean the same. A FileStorage becomes a bucket. The same path is the
same bucket again, so that a server finds what the one before it has stored.

What the configuration of ZEO says about the length of the queue of
invalidations and about where conflicts are resolved has no counterpart.

INTEROP_SERVER=reference starts ZEO's own server in the same way, which shows
that the suites do not notice the difference.
"""

import importlib
import io
import os
import pathlib
import subprocess
import sys

import harness
import ZConfig.schemaless
import ZEO._forker
import ZEO.tests.forker
import ZEO.tests.testConfig
from ZConfig.datatypes import asBoolean
from ZConfig.datatypes import SocketBindingAddress

# What loads wait for where a test asks for a storage that is slow to load: reads
# of the bucket, which only take place for what is not in memory.
SLOW_LOADS = ["--memory", "1B", "--inject", "get.delay=1:10ms,get-range.delay=1:10ms"]

IGNORED = {"invalidation-queue-size", "invalidation-age", "client-conflict-resolution"}


class Forker:
    """Starts servers for one test."""

    def __init__(self, directory, kind="directory", gateway=None, msgpack=False):
        self.directory = pathlib.Path(directory)
        self.kind = kind
        self.gateway = gateway
        self.msgpack = msgpack
        self.buckets = {}  # by the path of the storage
        self.servers = []

    def install(self, monkeypatch):
        for module in ZEO._forker, ZEO.tests.forker, ZEO.tests.testConfig:
            monkeypatch.setattr(module, "start_zeo_server", self.start_zeo_server)

    def close(self):
        """Stop what the test has left running."""
        for server in self.servers:
            server.kill()
        for server in self.servers:
            server.check_log()

    def start_zeo_server(self, storage_conf=None, zeo_conf=None, port=None,
                         keep=False, path="Data.fs", protocol=None, blob_dir=None,
                         suicide=True, debug=False, threaded=False,
                         start_timeout=33, name=None, log=None, show_config=False):
        if not storage_conf:
            storage_conf = f"<filestorage>\npath {path}\n</filestorage>"
        if blob_dir:
            storage_conf = (f"<blobstorage>\nblob-dir {blob_dir}\n{storage_conf}\n"
                            "</blobstorage>")
        if zeo_conf is None or isinstance(zeo_conf, dict):
            address = port or 0
            if isinstance(address, int):
                address = "127.0.0.1", address
            zeo_conf = ZEO._forker.ZEOConfig(address, log=log, **(zeo_conf or {}))
        text = f"{zeo_conf}\n\n{storage_conf}"
        if self.msgpack:
            text = text.replace("<zeo>", "<zeo>\nmsgpack true", 1)

        sections = parse(text).sections
        [zeo] = [s for s in sections if s.type == "zeo"]
        logs = [s for s in sections if s.type == "eventlog"]
        storages = [s for s in sections if s.type not in ("zeo", "eventlog")]

        address = SocketBindingAddress(one(zeo, "address")).address
        if isinstance(address, str):
            listen = os.path.abspath(address)
        else:
            address = address[0], address[1] or harness.free_port()
            listen = "%s:%d" % address
        directory = self.directory / f"server-{len(self.servers)}"
        if harness.REFERENCE or any(s.type == "zeoclient" for s in storages):
            server = ReferenceServer(directory, text, listen)
        else:
            server = self._server(directory, zeo, storages, listen)
        self.servers.append(server)
        server.start()
        for section in logs:
            [logfile] = section.sections
            logfile = pathlib.Path(one(logfile, "path"))
            if not server.reference:
                logfile.unlink(missing_ok=True)
                logfile.symlink_to(server.stderr_path)

        def stop(stop_timeout=99):
            server.stop()
            if not keep:
                for section in storages:
                    self._forget(section)
        return address, stop

    def _server(self, directory, zeo, storages, listen):
        arguments = ["--stop-timeout", "1s", "--pack-grace", "0s"]
        for key, [value] in zeo.items():
            if key == "read-only":
                arguments += ["--read-only"] * asBoolean(value)
            elif key == "transaction-timeout":
                arguments += ["--transaction-timeout", f"{value}s"]
            else:
                assert key in IGNORED | {"address", "msgpack"}, f"what is {key}?"
        for section in zeo.sections:
            arguments += self._tls(directory, section)
        buckets = {}
        for section in storages:
            bucket, options = self._storage(section)
            buckets[section.name or "1"] = bucket
            arguments += options
        return harness.Server(
            directory, buckets, listen=listen, arguments=arguments,
            msgpack=asBoolean(one(zeo, "msgpack", "false")))

    def _storage(self, section):
        """The bucket of a storage, and the options of the server that it needs."""
        if section.type == "mappingstorage":
            return self._new_bucket(), []
        if section.type in ("blobstorage", "loaddelayed_storage"):
            [inner] = section.sections
            bucket, options = self._storage(inner)
            return bucket, options + SLOW_LOADS * (section.type == "loaddelayed_storage")
        assert section.type == "filestorage", f"what is a {section.type}?"
        path = os.path.abspath(one(section, "path"))
        if path not in self.buckets or asBoolean(one(section, "create", "no")):
            self.buckets[path] = self._new_bucket()
        options = ["--read-only"] * asBoolean(one(section, "read-only", "no"))
        options += ["--no-pack-gc"] * (not asBoolean(one(section, "pack-gc", "yes")))
        return self.buckets[path], options

    def _new_bucket(self):
        return harness.Bucket(self.kind, self.directory, self.gateway)

    def _forget(self, section):
        """Have the next storage with the path of this one begin empty."""
        for inner in section.sections:
            self._forget(inner)
        if section.type == "filestorage":
            path = os.path.abspath(one(section, "path"))
            self.buckets.pop(path, None)
            for suffix in "", ".index", ".lock", ".tmp":  # of the reference server
                pathlib.Path(path + suffix).unlink(missing_ok=True)

    def _tls(self, directory, section):
        options = ["--tls-cert", one(section, "certificate"),
                   "--tls-key", one(section, "key"),
                   "--tls-client-ca", one(section, "authenticate"),
                   "--tls-client-auth", "required"]
        function = one(section, "password-function")
        if function:
            module, _, name = function.rpartition(".")
            directory.mkdir(parents=True, exist_ok=True)
            password = directory / "password"
            password.write_text(getattr(importlib.import_module(module), name)())
            options += ["--tls-key-password-file", str(password)]
        return options


class ReferenceServer(harness.Server):
    """ZEO's own server with a configuration of the suites."""

    def __init__(self, directory, text, listen):
        super().__init__(directory, {}, listen=listen, reference=True)
        zeo = next(s for s in parse(text).sections if s.type == "zeo")
        self.text = text.replace(f"address {one(zeo, 'address')}", f"address {listen}")
        assert listen in self.text
        self.cwd = os.getcwd()  # paths are relative to that of the test

    def stop(self):
        # Now and then it ends its work and not its process.
        process = self.process
        self.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
        self.wait_stopped()

    def command(self):
        path = self.directory / "zeo.conf"
        path.write_text(self.text)
        return [sys.executable, "-m", "ZEO.runzeo", "-C", str(path)]


def parse(text):
    return ZConfig.schemaless.loadConfigFile(io.StringIO(text))


def one(section, key, default=None):
    """The value of a key that is there once, or not at all."""
    [value] = section.get(key, [default])
    return value
