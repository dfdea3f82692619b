"""A site of plain Zope, made in its management interface."""

import webtest

OFSP = "/docs/manage_addProduct/OFSP"


class Site:
    """What is done to the site, and what anybody sees of it. Every kind of site
    has the names of this one."""

    name = "Zope"
    page = "/docs/page"

    def __init__(self):
        self.files = {}  # path: bytes

    def create(self, zope, data):
        """Make the site, with a page and a file of this data."""
        zope.submit("/manage_addProduct/OFSP/folderAdd",
                    {"id": "docs", "title": "Bücher"})
        self._add_page(zope, "page")
        self._add_file(zope, "file", data)
        self.files["/docs/file"] = data

    def _add_page(self, zope, name):
        zope.submit(OFSP + "/documentAdd", {"id": name})

    def _add_file(self, zope, name, data):
        zope.submit(OFSP + "/fileAdd", {
            "id": name,
            "file": webtest.Upload(name, data, "application/octet-stream")})

    def edit(self, zope, text):
        """Put this text on the page."""
        zope.submit(self.page + "/manage_main", {"data:text": f"<p>{text}</p>"})

    def discard(self, zope, data):
        """Make a file of this data, and delete it."""
        self._add_file(zope, "waste", data)
        form = zope.form("/docs/manage_main", "ids:list")
        [box] = [box for box in form.fields["ids:list"] if box._value == "waste"]
        box.checked = True
        form.submit("manage_delObjects:method")

    def contend(self, zope, name):
        """Add something of this name to where others add things meanwhile."""
        self._add_page(zope, f"contended-{name}")

    def contended(self, zope):
        """How many of those things there are."""
        contents = zope.form("/docs/manage_main", "ids:list")
        return sum(box._value.startswith("contended-")
                   for box in contents.fields["ids:list"])
