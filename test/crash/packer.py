"""The client of a crash test that packs, to now or to some seconds ago."""

import random
import threading
import time

import wire
from persistent.TimeStamp import TimeStamp

import ledger

LEDGER = 998  # its number among the clients


def tid_at(seconds):
    """The tid of a time, in hexadecimal."""
    parts = time.gmtime(seconds)[:5]
    return TimeStamp(*parts, seconds % 60).raw().hex()


class Packer:
    """Packs again and again, in a thread. Who holds the lock knows that no pack
    is under way: one that broke off did so because its server was killed."""

    def __init__(self, directory, seed, connect):
        self.log = ledger.Writer(f"{directory}/client-{LEDGER}.jsonl")
        self.random = random.Random(f"{seed}-packer")
        self.connect = connect  # returns a connection that may pack
        self.number = 0
        self.lock = threading.Lock()
        self.wanted = threading.Event()  # a pack at once
        self.busy = threading.Event()    # a pack has been asked for
        self.took = 0.1                  # seconds, the last one that was done
        self.stopped = False
        self.thread = threading.Thread(target=self.run, daemon=True)

    def start(self):
        self.thread.start()

    def stop(self):
        self.stopped = True
        self.wanted.set()
        if self.thread.ident:
            self.thread.join()

    def run(self):
        while not self.stopped:
            self.wanted.wait(self.random.uniform(0.2, 2))
            self.wanted.clear()
            if not self.stopped:
                with self.lock:
                    ago = self.random.choice((0, 0, self.random.uniform(0, 5)))
                    try:
                        self.pack(time.time() - ago)
                    except TimeoutError as e:
                        self.log.write(v=f"a pack hung: {e!r}")
                        return
                    except (OSError, wire.Closed):
                        pass
                    self.busy.clear()

    def pack(self, seconds):
        """Pack to a time, and write it down: whether it was done."""
        with self.connect() as connection:
            self.number += 1
            number = self.number
            start = time.monotonic()
            self.log.write(p=number, tid=tid_at(seconds), at=start)
            message = connection.send("pack", seconds, True)
            self.busy.set()
            try:
                connection.reply(message)
            except wire.ServerError as e:
                if "nothing was dropped" in str(e):
                    self.log.write(px=number)
                return False
            self.log.write(pk=number)
            self.took = time.monotonic() - start
            return True
