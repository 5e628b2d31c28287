"""What several tests of pages use: a name that must be shown as text, and what holds for every page."""

from html.parser import HTMLParser

NASTY = '<script>alert("1")</script>\'\u202egnp.&amp;\u2066\x1b[31m\udcff'
SHOWN = '<script>alert("1")</script>\'\\u202egnp.&amp;\\u2066\\x1b[31m\\udcff'
ALLOWED = {
    *("html", "head", "meta", "title", "style", "body", "main", "h1", "h2", "h3", "p", "b", "small", "bdi", "div"),
    *("section", "span", "figure", "figcaption", "img", "table", "tr", "th", "td", "ul", "li", "dl", "dt", "dd"),
    *("svg", "g", "path", "defs", "use", "text"),
}


class Reader(HTMLParser):
    """The text of a page, the names of its elements, and whatever it would load from elsewhere."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text, self.tags, self.outside = "", set[str](), list[str]()
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "data", "poster", "action") and not (value or "").startswith("data:"):
                self.outside.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.text += data


def check(page: str, text: str = SHOWN, times: int = 1) -> None:
    """A page that shows the text at least `times` times, and holds everything that it shows."""
    assert page.encode("utf-8").decode("utf-8") == page
    reader = Reader(page)
    assert reader.tags <= ALLOWED
    assert reader.outside == []
    assert "url(" not in page
    assert "://" not in page
    assert reader.text.count(text) >= times
    assert not set("\u202e\u2066\x1b\udcff") & set(page)
