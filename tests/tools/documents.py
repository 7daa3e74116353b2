"""What the documents say: their code blocks, and the tables of docs/format.md."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

DOCS = ROOT / "docs"

README = ROOT / "README.md"

#: The pages whose Python users copy.
USERS = [README] + [
    DOCS / f"{name}.md"
    for name in (
        *("index", "quickstart", "tutorial", "celery", "deployment", "from-channels-redis"),
        *("without-django", "options"),
    )
]

FORMAT = (DOCS / "format.md").read_text()


def blocks(document: Path, language: str) -> list[str]:
    """The code blocks of a document in one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", document.read_text(), re.M | re.S)


def rows(section: str) -> list[list[str]]:
    """The rows of all tables of a section of docs/format.md, or of all of it."""
    text = FORMAT
    if section:
        text = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
        assert text, section
    lines = re.findall(r"^\|(.*)\|$", text, re.M)
    return [[cell.strip() for cell in line.split("|")] for line in lines]
