"""An HTML page as what the tests ask of it."""

from __future__ import annotations

from html.parser import HTMLParser


class Tags(HTMLParser):
    """Collects from a document what the tests ask for."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.texts: list[tuple[tuple[tuple[str, str], ...], str]] = []
        self.series: dict[str, str] = {}
        self.classes: dict[str, list[str]] = {}
        self.outside: list[str] = []

    @classmethod
    def balanced(cls, page: str) -> bool:
        """Whether every tag that opens is closed: what was not escaped would show here."""
        tags = cls()
        tags.feed(page)
        return tags.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.classes.setdefault(values.get("class", ""), []).append(tag)
        if "data-series" in values:
            self.series[values["data-series"]] = values["d"]
        self.outside += [value for name, value in values.items() if name in {"src", "href", "action", "data"}]
        if tag not in self.VOID:
            self.open.append((tag, values.get("class", "")))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        opened, _ = self.open.pop()
        assert opened == tag, f"</{tag}> closes <{opened}>"

    def handle_data(self, data: str) -> None:
        self.texts.append((tuple(self.open), data))

    def text_of(self, tag: str, style: str) -> list[str]:
        """The text right within each such element."""
        return [text for path, text in self.texts if path and path[-1] == (tag, style)]
