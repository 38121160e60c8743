"""What stands on the pages: their fenced blocks, and what their prose names."""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

_DOCS = (
    *("data", "methods", "operations", "clusters", "capacity", "security", "sweeps", "serving", "python", "results"),
    *("paper_studies", "gpu", "performance"),
)
PAGES = ("README.md", *(f"docs/{name}.md" for name in _DOCS))
"""In the order in which a reader, and the test, goes through them: later pages use what earlier ones made."""

EXTENDING = "docs/extending.md"
"""Has a test of its own, which follows it on a copy of the package."""

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block: `bash` is what a reader runs, `python` an excerpt, `text` anything else."""

    page: str
    line: int
    language: str
    text: str


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str, language: str | None = None) -> list[Block]:
    """The page's blocks from top to bottom, without the indentation of their fences."""
    text = read(page)
    found = []
    for fence in _FENCE.finditer(text):
        indent, kind, content = fence.groups()
        content = re.sub(f"^{indent}", "", content, flags=re.MULTILINE)
        found.append(Block(page, text.count("\n", 0, fence.start()) + 1, kind, content))
    return [block for block in found if language in (None, block.language)]


def prose(page: str) -> str:
    """The page without its blocks."""
    return _FENCE.sub("", read(page))


def code_words(page: str) -> list[str]:
    """What stands between backticks in the prose, in words."""
    return [word for code in re.findall(r"`([^`\n]+)`", prose(page)) for word in code.split()]
