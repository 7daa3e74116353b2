"""What `make docs` does to the documents, so that they read well in a checkout as well.

Links from docs/ to other files of the project lead to the repository; clauses are taken from the
docstrings that define them, and citations of clauses in the reference become links; the changelog
is a page. A page that would load something from elsewhere fails.
"""

from __future__ import annotations

import ast
import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
#: Documents outside docs/ that are pages too, by the page's name.
PAGES = {"changelog.md": "CHANGELOG.md", "contributing.md": "CONTRIBUTING.md"}
#: As in `asgi_ipc.conformance.clauses`.
_CLAUSE = re.compile(r"^  ([A-Z]\d+) +(\S.*(?:\n {5,}\S.*)*)", re.MULTILINE)
_LINK = re.compile(r"(\]\(\s*)([^)#\s]*)(#[^)\s]*)?(\))")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages that lie outside docs/."""
    for page, path in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text()))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Put in the clauses, and lead links to where the site has what they name."""
    source = page.file.src_uri
    markdown = re.sub(r"<!-- clauses of (\S+) -->", lambda found: _clauses(found[1]), markdown)
    lies_at = PAGES.get(source, f"docs/{source}")

    def led(found: re.Match[str]) -> str:
        before, path, anchor, after = found.groups(default="")
        if not path or re.match(r"\w+:", path):
            return found[0]
        target = posixpath.normpath(posixpath.join(posixpath.dirname(lies_at), path))
        if not (ROOT / target).exists():
            raise PluginError(f"{lies_at}: there is no {target!r}, to which a link leads")
        pages = {path: page for page, path in PAGES.items()}
        if target.startswith("docs/"):
            return f"{before}{target.removeprefix('docs/')}{anchor}{after}"
        if target in pages:
            return f"{before}{pages[target]}{anchor}{after}"
        kind = "tree" if (ROOT / target).is_dir() else "blob"
        return f"{before}{config.repo_url}/{kind}/main/{target}{anchor}{after}"

    return _outside_code(markdown, lambda text: _LINK.sub(led, text))


def on_page_content(html: str, page: Any, config: Any, files: Any) -> str:
    """Link the clauses that docstrings cite."""
    if page.file.src_uri != "api.md":
        return html

    def linked(found: re.Match[str]) -> str:
        names = re.sub(
            r"\b([SAOEG]\d+)\b",
            lambda name: f'<a href="clauses.html#{name[1].lower()}">{name[1]}</a>',
            found[1],
        )
        return f"({names})"

    return re.sub(r"\(((?:[SAOEG]\d+)(?:(?:, | to |-)[SAOEG]\d+)*)\)", linked, html)


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Refuse what would be loaded from elsewhere: the site works without a network."""
    loaded = re.findall(r"<(?:script|img|iframe)\b[^>]*\bsrc=\"?(?:https?:)?//[^\s\">]*", output)
    loaded += [
        each
        for each in re.findall(r"<link\b[^>]*\bhref=\"?(?:https?:)?//[^>]*", output)
        if "canonical" not in each
    ]
    if loaded:
        raise PluginError(f"{page.file.src_uri} loads {loaded[0]}; the site must hold it itself")
    return output


def _outside_code(markdown: str, change: Any) -> str:
    """Change a document's text, but neither blocks nor words of code."""
    parts = re.split(
        r"(^ *```.*?^ *```$|`[^`\n]+`(?!\]))", markdown, flags=re.MULTILINE | re.DOTALL
    )
    return "".join(part if at % 2 else change(part) for at, part in enumerate(parts))


def _clauses(path: str) -> str:
    """The clauses of a module's docstring, each with an anchor of its name."""
    text = ast.get_docstring(ast.parse((ROOT / path).read_text()), clean=False) or ""
    found = _CLAUSE.findall(text)
    if not found:
        raise PluginError(f"{path} has no clauses")
    rows = [f'| <a id="{name.lower()}"></a>{name} | {_cell(words)} |' for name, words in found]
    return "\n".join(["| Clause | Words |", "| --- | --- |", *rows])


def _cell(words: str) -> str:
    return " ".join(words.split()).replace("|", "\\|")
