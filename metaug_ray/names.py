"""Names of files, folders and classes, as messages and manifests show them."""

import re
from typing import Final

# Line breaks and other control characters, and the half characters by which Python stands for bytes that are no UTF-8.
_UNSHOWN: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def readable(name: str) -> str:
    r"""A name on one line of valid Unicode: a byte that is no UTF-8 becomes \xe9, a line break \n."""
    return _UNSHOWN.sub(_escaped, name)


def quoted(name: str) -> str:
    """A readable name in quotes."""
    return f"'{readable(name)}'"


def slug(name: str) -> str:
    """A name as part of a run's: letters and digits in lower case, what stands between them one hyphen."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else repr(found[0])[1:-1]
