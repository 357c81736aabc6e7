"""Hooks of mkdocs: nothing is loaded from another host, and docstrings may hold Sphinx's marks."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from mkdocs.exceptions import PluginError

_LOADED_LINKS = {"stylesheet", "preload", "preconnect", "icon", "modulepreload", "manifest"}


class _Loaded(HTMLParser):
    """Collects the addresses that a browser loads by itself; what a reader may click on is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        said = {name: value or "" for name, value in attrs}
        if tag != "link" or _LOADED_LINKS & set(said.get("rel", "").split()):
            self.addresses += [said.get("src", ""), said.get("href", "") if tag == "link" else ""]


def on_page_content(html: str, **_: Any) -> str:
    """Take out the marks that Markdown does not know: roles, and the second colon before code."""
    html = re.sub(r":(?:class|meth|func|mod|data|attr):<code>(?:~[\w.]*\.)?", "<code>", html)
    return html.replace("::</p>", ":</p>")


def on_post_page(output: str, *, page: Any, **_: Any) -> str:
    """Refuse what is loaded from elsewhere."""
    loaded = _Loaded()
    loaded.feed(output)
    for address in loaded.addresses:
        if address.startswith(("http:", "https:", "//")):
            raise PluginError(f"{page.file.src_uri} loads {address}; keep a copy in docs/ instead")
    return output
