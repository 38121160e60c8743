"""Does to a copy of the package what the blocks of `docs/extending.md` say."""

import re
from pathlib import Path

from tests.docs.pages import Block

_FIRST_LINE = re.compile(r"# (\S+), (new file|(after|above|instead of) the line: (.+))\n")


def follow(block: Block, root: Path) -> None:
    """Write the block where its first line says.

    Raises:
        AssertionError: the first line says nothing that a reader could do, or the line that it names is not there, or
            there more than once.
    """
    place = f"{block.page}, line {block.line}"
    first = _FIRST_LINE.match(block.text)
    assert first is not None, f"{place}: the block says not where it belongs"
    name, what, where, anchor = first.groups()
    file, code = root / name, block.text[first.end() :]
    if what == "new file":
        assert not file.exists(), f"{place}: {name} is there already"
        file.write_text(code, encoding="utf-8")
        return
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    found = [number for number, line in enumerate(lines) if _is(line.strip(), anchor)]
    assert len(found) == 1, f"{place}: {name} has {len(found)} lines {anchor!r}"
    at = found[0]
    lines[at + (where == "after") : at + (where != "above")] = [code]
    file.write_text("".join(lines), encoding="utf-8")


def _is(line: str, anchor: str) -> bool:
    return line.startswith(anchor.removesuffix("...")) if anchor.endswith("...") else line == anchor
