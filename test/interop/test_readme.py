"""The examples in the README do what they say."""

import re
import subprocess
import sys

import harness
import pytest

README = harness.ROOT / "README.md"


def test_the_python_example_of_the_readme_runs(directory_server, tmp_path):
    text = README.read_text()
    blocks = re.findall(r"^```(?:python|pycon)\n(.*?)^```", text, re.M | re.S)
    assert blocks, "README.md has no ```python block to try the server with"
    host, port = directory_server.address
    for number, block in enumerate(blocks):
        code = block.replace("127.0.0.1:8100", f"{host}:{port}")
        code = re.sub(r"\b8100\b", str(port), code)
        if ">>>" in code:
            command = [sys.executable, "-m", "doctest",
                       "-o", "ELLIPSIS", "-o", "NORMALIZE_WHITESPACE"]
            path = tmp_path / f"readme_{number}.txt"
        else:
            command = [sys.executable]
            path = tmp_path / f"readme_{number}.py"
        path.write_text(code)
        done = subprocess.run(command + [str(path)], capture_output=True,
                              text=True, timeout=harness.HANG, cwd=tmp_path)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"


@pytest.mark.s3storage
def test_the_zope_conf_of_the_readme_opens_the_database(directory_server, open_db, tmp_path):
    from ZODB.config import databaseFromString
    text = README.read_text()
    blocks = [b for b in re.findall(r"^```\w*\n(.*?)^```", text, re.M | re.S)
              if "<zeoclient>" in b]
    assert blocks, "README.md shows no <zeoclient>"
    open_db(directory_server)
    for block in blocks:
        block = block.replace("<zodb_db", "<zodb").replace("</zodb_db", "</zodb")
        block = re.sub(r"^\s*mount-point.*\n", "", block, flags=re.M)
        block = re.sub(r"<zodb \w+>", "<zodb>", block)
        block = re.sub(r"\b8100\b", str(directory_server.address[1]), block)
        block = block.replace("$INSTANCE", str(tmp_path))
        start, end = block.index("<zodb"), block.index("</zodb>") + len("</zodb>")
        db = databaseFromString(block[start:end])
        try:
            with db.transaction() as connection:
                connection.root()["from zope.conf"] = True
        finally:
            db.close()
