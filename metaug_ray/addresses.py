"""Secrets in addresses, which are logged and kept: found, shown as stars, and left out."""

import re
from typing import Final

_STARS: Final = "***"
# Of a user, but for a port: scheme://user:password@host.
_PASSWORD: Final = re.compile(
    r"""(?<=://)([^/?\#:@[\s'"]*):(?!\*{3}@)
    (?!\d+(?:[/?\#\s'"]|$|[,;)](?![^/?\#\s'"]*@)))      # a port
    (?:[^/?\#\s'"]+|[^@\s'"]+)@                        # up to the last @ before the path, or, in spite of a slash, one
    """,
    re.VERBOSE,
)
# Among the options behind a question mark.
_OPTION: Final = re.compile(
    r"""(?<=[?&])([\w.-]*(?:passw|pwd|secret|token|credential|signature|\bsig\b|(?<!ssl)key|auth)[\w.-]*)
    =(?!\*{3})[^&\#\s'"]+
    """,
    re.I | re.VERBOSE,
)


def holds_secret(address: str) -> bool:
    """Whether an address has a password, or an option that is one."""
    return masked(address) != address


def masked(text: str) -> str:
    """A text in which stars stand for the secrets of all addresses."""
    return _OPTION.sub(rf"\1={_STARS}", _PASSWORD.sub(rf"\1:{_STARS}@", text))


def without_secret(address: str) -> str:
    """An address without its secrets; the user's name stays."""
    if not holds_secret(address):
        return address
    left = _OPTION.sub("", _PASSWORD.sub(r"\1@", address))
    return re.sub(r"(?<=[?&])&+|[?&]+(?=#|$)", "", left)
