"""The ZEO 5 protocol on a plain socket, without a client's caches and retries.

Messages are built and read by ZEO's own marshalling code.
"""

import collections
import itertools
import pickle
import struct

import harness
from ZEO.asyncio.marshal import decoder
from ZEO.asyncio.marshal import encoder

maxtid = b"\x7f" + b"\xff" * 7
z64 = b"\0" * 8


class Closed(Exception):
    """The server closed the connection."""


class ServerError(Exception):
    """The server answered a call with an error."""

    def __init__(self, class_, args):
        super().__init__(class_, args)
        self.class_ = class_
        self.arguments = args

    @property
    def name(self):
        return self.class_.rpartition(".")[2]


class Connection:

    def __init__(self, address, timeout=harness.HANG, tls=None):
        self.socket = harness.dial(address, timeout)
        if tls:
            self.socket = tls.wrap_socket(self.socket)
        self.buffer = bytearray()
        self.ids = itertools.count(1)
        self.notices = []  # one-way messages from the server: (name, args)
        try:
            self.announced = self.read_frame()
        except BaseException:
            self.close()
            raise
        self.encode = encoder(self.announced)
        self.decode = decoder(self.announced)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    # -- frames

    def write_frame(self, data):
        try:
            self.socket.sendall(struct.pack(">I", len(data)) + data)
        except OSError as e:
            raise Closed(str(e)) from e

    def read_exactly(self, size):
        while len(self.buffer) < size:
            try:
                chunk = self.socket.recv(1 << 18)
            except TimeoutError:
                raise
            except OSError as e:
                raise Closed(str(e)) from e
            if not chunk:
                raise Closed("end of stream")
            self.buffer += chunk
        data = bytes(self.buffer[:size])
        del self.buffer[:size]
        return data

    def read_frame(self):
        [size] = struct.unpack(">I", self.read_exactly(4))
        return self.read_exactly(size)

    # -- messages

    def shake_hands(self, version=None):
        self.write_frame(version or self.announced)
        return self

    def register(self, storage="1", read_only=False):
        self.shake_hands()
        return self.call("register", storage, read_only)

    def one_way(self, name, *args):
        self.write_frame(self.encode(0, True, name, args))

    def send(self, name, *args):
        message_id = next(self.ids)
        self.write_frame(self.encode(message_id, False, name, args))
        return message_id

    def receive(self):
        return self.decode(self.read_frame())

    def reply(self, message_id):
        while True:
            got, flag, name, args = self.receive()
            if name != ".reply":
                self.notices.append((name, args))
                continue
            assert got == message_id, (got, message_id)
            if flag:
                raise ServerError(*args)
            return args

    def call(self, name, *args):
        return self.reply(self.send(name, *args))

    def pipeline(self, calls, window=256):
        """Make many calls, and yield what each returned, or its ServerError.

        The server may answer in any order; this yields in the order of calls."""
        calls = iter(calls)
        waiting, answers = collections.deque(), {}
        while True:
            for call in itertools.islice(calls, window - len(waiting)):
                waiting.append(self.send(*call))
            if not waiting:
                return
            while waiting[0] not in answers:
                got, flag, name, args = self.receive()
                if name == ".reply":
                    answers[got] = ServerError(*args) if flag else args
                else:
                    self.notices.append((name, args))
            yield answers.pop(waiting.popleft())

    def wait_closed(self):
        """Read until the server closes; return the messages that came first."""
        messages = []
        while True:
            try:
                messages.append(self.read_frame())
            except Closed:
                return messages

    # -- transactions

    def begin(self, txn, description=b"", user=b"", extension=None):
        self.one_way("tpc_begin", txn, user, description,
                     {} if extension is None else extension, None, " ")

    def store(self, txn, oid, serial, data):
        self.one_way("storea", oid, serial, data, txn)

    def commit(self, records, txn=None, **meta):
        """Commit [(oid, serial, data)] and return the tid."""
        txn = txn or next(self.ids)
        self.begin(txn, **meta)
        for oid, serial, data in records:
            self.store(txn, oid, serial, data)
        conflicts = self.call("vote", txn)
        assert not conflicts, conflicts
        return self.call("tpc_finish", txn)


def record(state, class_=b"persistent.mapping\nPersistentMapping"):
    """A database record: the pickled class, then the pickled state."""
    return b"\x80\x03c" + class_ + b"\nq\x00." + pickle.dumps(state, 3)


def record_state(data):
    """The state in a record made by record()."""
    return pickle.loads(data[data.index(b"\nq\x00.") + 4:])
