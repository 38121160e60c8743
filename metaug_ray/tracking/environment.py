"""What a run was made with: code, packages, machine."""

import importlib.metadata
import platform
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def git_state() -> dict[str, str]:
    """Commit of the source tree that this package lies in, and whether it was changed; empty outside of one."""
    commit, changes = _git("rev-parse", "HEAD"), _git("status", "--porcelain", "--untracked-files=no")
    if commit is None or changes is None:
        return {}
    return {"commit": commit, "changed": "yes" if changes else "no"}


def environment() -> dict[str, object]:
    """Python, machine and the version of every installed package."""
    packages = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions() if d.metadata["Name"]}
    return {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "node": platform.node(),
        "git": git_state(),
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
    }


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
