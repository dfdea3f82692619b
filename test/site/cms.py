"""A Plone site, made as its owner makes it."""

import random
import struct
import zlib

import webtest

WIDGETS = "form.widgets."
SAVE = "form.buttons.save"


class Site:
    """See zmi.Site for what these are."""

    name = "Plone"
    page = "/cms/page"

    def __init__(self):
        self.files = {}

    def create(self, zope, data):
        zope.submit("/@@plone-addsite", {"site_id": "cms", "title": "Bücher"})
        self._add_page(zope, "page", "Grüße")
        # What is not published is not for anybody.
        zope.administrator().get(self.page).click(linkid="workflow-transition-publish")
        self._add_file(zope, "file", data)
        self.files["/cms/file/@@download/file"] = data
        picture = _picture()
        self._add(zope, "Image", "picture", {
            "title": "Bild",
            "image": webtest.Upload("picture.png", picture, "image/png")})
        self.files["/cms/picture"] = picture
        # Plone makes this when it is first asked for, and keeps it.
        scale = "/cms/picture/@@images/image/mini"
        self.files[scale] = zope.read(scale)

    def _add(self, zope, kind, name, values):
        values = {WIDGETS + field: value for field, value in values.items()}
        values[WIDGETS + "IShortName.id"] = name
        zope.submit(f"/cms/++add++{kind}", values, SAVE)

    def _add_page(self, zope, name, title):
        self._add(zope, "Document", name, {"IDublinCore.title": title})

    def _add_file(self, zope, name, data):
        self._add(zope, "File", name, {
            "title": name,
            "file": webtest.Upload(name, data, "application/octet-stream")})

    def edit(self, zope, text):
        zope.submit(self.page + "/edit",
                    {WIDGETS + "IRichTextBehavior.text": f"<p>{text}</p>"}, SAVE)

    def discard(self, zope, data):
        self._add_file(zope, "waste", data)
        zope.submit("/cms/waste/delete_confirmation", {}, "form.buttons.Delete")

    def contend(self, zope, name):
        self._add_page(zope, name, "Contended")

    def contended(self, zope):
        page = zope.administrator().get("/cms/@@search?SearchableText=contended")
        return int(page.html.find(id="search-results-number").text)


def _picture(side=600):
    """A PNG of grey noise, larger than the scales that Plone makes of it."""
    def chunk(kind, data):
        return (struct.pack(">I", len(data)) + kind + data
                + struct.pack(">I", zlib.crc32(kind + data)))
    noise = random.Random(side)
    rows = b"".join(b"\0" + noise.randbytes(side) for _ in range(side))
    return (b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
            + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
