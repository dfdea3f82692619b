"""What the tests run in processes of their own."""

import multiprocessing
import random

import transaction
import ZEO.ClientStorage
import ZODB
from persistent.mapping import PersistentMapping
from ZODB.POSException import ConflictError

import harness

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload([__name__])


def run_processes(function, arguments, timeout=4 * harness.HANG):
    """Call the function once for each tuple of arguments, each in its own
    process, all at once, and return the results in order."""
    with _context.Pool(len(arguments)) as pool:
        return pool.starmap_async(function, arguments, chunksize=1).get(timeout)


def start_process(function, *arguments):
    process = _context.Process(target=function, args=arguments, daemon=True)
    process.start()
    return process


def event():
    return _context.Event()


def queue():
    return _context.Queue()


def open_db(address, **options):
    options.setdefault("cache_size", 2 << 20)
    return ZODB.DB(ZEO.ClientStorage.ClientStorage(
        address, wait_timeout=harness.HANG, **options))


def increment_and_insert(address, worker, count):
    """Commit count times: one more in root.length, one more key in root.tree.

    Returns how many conflicts were retried."""
    db = open_db(address)
    retries = 0
    try:
        for i in range(count):
            while True:
                try:
                    with db.transaction() as connection:
                        root = connection.root()
                        root["length"].change(1)
                        root["tree"][f"{i:04}-{worker}"] = (worker, i)
                    break
                except ConflictError:
                    retries += 1
    finally:
        db.close()
    return retries


def move_money(address, seed, count):
    """Move amounts between accounts, whose sum stays the same."""
    db = open_db(address)
    rng = random.Random(seed)
    commits = 0
    try:
        while commits < count:
            try:
                with db.transaction() as connection:
                    accounts = connection.root()["accounts"]
                    a, b = rng.sample(sorted(accounts), 2)
                    amount = rng.randrange(1, 10)
                    accounts[a]["balance"] -= amount
                    accounts[b]["balance"] += amount
                commits += 1
            except ConflictError:
                pass
    finally:
        db.close()
    return commits


def watch_sum(address, done, expected):
    """Add up all accounts, over and over, until done is set.

    Within one transaction every read has to come from one state of the
    database: the sum is the same always, and reading twice gives the same."""
    db = open_db(address)
    seen = set()
    rounds = 0
    try:
        while not (done.is_set() and rounds >= 3):
            tm = transaction.TransactionManager()
            connection = db.open(tm)
            try:
                tm.begin()
                accounts = connection.root()["accounts"]
                first = [accounts[k]["balance"] for k in sorted(accounts)]
                # Forget what was loaded: it has to come from the past now.
                connection.cacheMinimize()
                second = [accounts[k]["balance"] for k in sorted(accounts)]
                if first != second:
                    return f"one transaction, two states: {first} {second}"
                if sum(first) != expected:
                    return f"sum {sum(first)}, not {expected}: {first}"
                seen.add(tuple(first))
                rounds += 1
            finally:
                tm.abort()
                connection.close()
    finally:
        db.close()
    return len(seen)


def new_accounts(count, balance):
    return PersistentMapping(
        {f"account {i}": PersistentMapping({"balance": balance}) for i in range(count)})


def commit_until(address, stop, acknowledged):
    """Commit numbers 0, 1, 2... as root[n] = n; put each acknowledged one into
    the queue. Ends when the server goes away or stop is set."""
    db = open_db(address)
    n = 0
    try:
        while not stop.is_set():
            with db.transaction() as connection:
                connection.root()["tree"][n] = n
            acknowledged.put(n)
            n += 1
    except Exception:
        return
