"""A Zope as an administrator sets it up, and what he does to it in a browser.

An Instance is a directory made by Zope's own mkwsgiinstance, with the database of
its zope.conf behind a <zeoclient>, and the process over it, which waitress runs.
"""

import pathlib
import re
import subprocess
import sys
import time

import harness
import webtest

ADMIN, PASSWORD = "admin", "not-a-secret"
PROGRAMS = pathlib.Path(sys.executable).parent
DATABASE = "/Control_Panel/Database/main"

ZOPE_CONF = """\
%define INSTANCE {directory}
instancehome $INSTANCE

<zodb_db main>
  mount-point /
  <zeoclient>
    server {server}
    storage 1
    blob-dir $INSTANCE/var/blobs
    wait on
  </zeoclient>
</zodb_db>

<environment>
  CHAMELEON_CACHE $INSTANCE/var/cache
</environment>
"""


class Instance:

    def __init__(self, directory, server):
        """Make the directory, for a client of the server."""
        self.directory = pathlib.Path(directory)
        self.port = harness.free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process = None
        subprocess.run(
            [PROGRAMS / "mkwsgiinstance", "-d", directory,
             "-u", f"{ADMIN}:{PASSWORD}", "-p", sys.executable], check=True)
        etc = self.directory / "etc"
        (etc / "zope.conf").write_text(
            ZOPE_CONF.format(directory=directory, server=server.host_port))
        ini, replaced = re.subn(
            r"^port = \d+$", f"port = {self.port}",
            (etc / "zope.ini").read_text(), flags=re.M)
        assert replaced == 1, "mkwsgiinstance writes the port in another way now"
        (etc / "zope.ini").write_text(ini)

    # -- the process

    def start(self):
        with open(self.directory / "output", "ab") as output:
            self.process = subprocess.Popen(
                [PROGRAMS / "runwsgi", self.directory / "etc" / "zope.ini"],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                cwd=self.directory)
        harness.wait_until("Zope answers", self._answers, timeout=120)
        return self

    def _answers(self):
        assert self.process.poll() is None, "Zope ended:\n" + self.log()[-8000:]
        try:
            harness.dial(("127.0.0.1", self.port)).close()
        except OSError:
            return False
        return True

    def stop(self):
        process, self.process = self.process, None
        if process is not None:
            process.terminate()
            process.wait(harness.HANG)

    def log(self):
        return (self.directory / "output").read_text(errors="replace")

    def errors(self):
        """The last line of every traceback in the log."""
        return re.findall(r"^Traceback.*\n(?:[ \t].*\n)*(\S.*)", self.log(), re.M)

    # -- pages

    def insist(self, action):
        """Do it until it succeeds, as one does who is shown an error page."""
        give_up = time.monotonic() + harness.HANG
        while True:
            try:
                return action(self)
            except webtest.AppError:
                if time.monotonic() > give_up:
                    raise
                time.sleep(0.1)

    def administrator(self):
        """A browser that is logged in. A status but 2xx and 3xx is an error."""
        browser = webtest.TestApp(self.url, lint=False)
        browser.authorization = ("Basic", (ADMIN, PASSWORD))
        return browser

    def read(self, path):
        """What anybody gets there who is not logged in."""
        return webtest.TestApp(self.url, lint=False).get(path).body

    def form(self, path, *fields):
        """The form that has these fields, on a page that the administrator opens."""
        page = self.administrator().get(path)
        # A form is listed under its number, and again under its id.
        forms = {id(form): form for form in page.forms.values()
                 if set(fields) <= set(form.fields)}
        assert len(forms) == 1, f"{path}: {len(forms)} forms have {fields}"
        return forms.popitem()[1]

    def submit(self, path, values, button="submit"):
        """Fill these values into the form that has such fields, and press its
        button."""
        form = self.form(path, button, *values)
        for name, value in values.items():
            form[name] = value
        answer = form.submit(button)
        # A form with a mistake in it comes again, with status 200.
        if answer.status_int != 302:
            assert "alert-danger" not in answer.text, answer.text
        return answer

    # -- the whole database

    def undoable(self):
        """The latest transactions that the Undo tab offers, as it describes them;
        the newest first."""
        page = self.administrator().get(DATABASE + "/manage_UndoForm")
        boxes = page.html.find_all("input", type="checkbox")
        return [box["value"] for box in boxes]

    def undo_newest(self):
        """Tick the newest transaction on the Undo tab, and undo it."""
        form = self.form(DATABASE + "/manage_UndoForm", "transaction_info:list")
        form.set("transaction_info:list", True, index=0)
        answer = form.submit("submit")
        assert answer.status_int == 302, "undo failed:\n" + answer.text

    def pack(self):
        """Pack away all that is no longer current."""
        self.submit(DATABASE + "/manage_main", {"days:float": "0"})
