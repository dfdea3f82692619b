"""How fast is s3storage import, beside ZODB's copyTransactionsFrom?

    python test/bench/import.py --binary bin/s3storage --objects 1000000

Writes a Data.fs with `s3storage bench data`, and copies it into a directory
bucket and into another FileStorage, by turns, so that both have the machine to
themselves. Prints the times, and what takes how much space.
"""

import argparse
import pathlib
import shutil
import subprocess
import tempfile
import time

from ZODB.FileStorage import FileStorage


def took(action):
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def copy(source, target):
    reader, writer = FileStorage(str(source), read_only=True), FileStorage(str(target))
    seconds = took(lambda: writer.copyTransactionsFrom(reader))
    writer.close()
    reader.close()
    return seconds


def size(directory):
    return sum(p.stat().st_size for p in pathlib.Path(directory).rglob("*") if p.is_file())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="bin/s3storage")
    parser.add_argument("--objects", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        directory = pathlib.Path(directory)
        source, bucket, target = directory / "Data.fs", directory / "bucket", directory / "Copy.fs"
        subprocess.run([args.binary, "bench", "data", "--objects", str(args.objects), "--out", str(source)], check=True)
        FileStorage(str(source)).close()  # makes its index
        for _ in range(args.rounds):
            shutil.rmtree(bucket, ignore_errors=True)
            imported = took(lambda: subprocess.run(
                [args.binary, "import", str(source), str(bucket)], check=True, stderr=subprocess.DEVNULL))
            copied = copy(source, target)
            for path in directory.glob("Copy.fs*"):
                path.unlink()
            print(f"import {imported:.1f} s, copyTransactionsFrom {copied:.1f} s: {copied / imported:.2f} times as fast", flush=True)
        data, stored = source.stat().st_size, size(bucket)
        print(f"Data.fs {data / 1e6:.1f} MB, bucket {stored / 1e6:.1f} MB: {stored / data:.3f}; "
              f"index {size(bucket / 'index') / (2 * args.objects):.2f} bytes a revision")


if __name__ == "__main__":
    main()
