"""What `docker/Dockerfile` puts into the image, read from it."""

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.documents import IN_IMAGE, ROOT, project

PROGRAMS = ("bash", "python", "ray", "wget", "chown")
"""What commands of manifests may begin with: Debian's own, what the Dockerfile installs, and the environment's."""


@dataclass(frozen=True)
class Image:
    """What the Dockerfile says of its last stage.

    Attributes:
        user: that its processes run as, by number.
        home: folder that it has.
        environment: variables.
        copied: files and folders of the repository that lie under `IN_IMAGE`.
    """

    user: int
    home: str
    environment: Mapping[str, str]
    copied: tuple[str, ...]

    def lacks(self, path: str) -> bool:
        """Whether a path under `IN_IMAGE` is of no file that was copied."""
        inner = Path(path).relative_to(IN_IMAGE)
        return not (ROOT / inner).exists() or not any(inner.is_relative_to(source) for source in self.copied)


def read_image(text: str) -> Image:
    """Raises `AssertionError` where the Dockerfile is not of the kind that the manifests rely on."""
    joined = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE))
    steps = [tuple(line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]
    last = max(number for number, (name, _) in enumerate(steps) if name == "FROM")
    user = [rest for name, rest in steps[last:] if name == "USER"][-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), f"USER {user}: Kubernetes must see by a number that it is not root"
    work = [rest for name, rest in steps[last:] if name == "WORKDIR"]
    assert work == [str(IN_IMAGE)], f"WORKDIR is {work}, not {IN_IMAGE}"
    variables = dict(word.split("=", 1) for name, rest in steps[last:] if name == "ENV" for word in shlex.split(rest))
    return Image(int(user.partition(":")[0]), variables["HOME"], variables, tuple(_copied(steps[last:])))


def _copied(steps: list[tuple[str, ...]]) -> list[str]:
    sources = []
    for name, rest in steps:
        if name == "COPY" and not rest.startswith("--from"):
            *from_here, target = rest.split()
            into = target.endswith("/")
            sources += [f"{target}{Path(source).name}" if into else target for source in from_here]
    return [source.removeprefix("./") for source in sources]


def tag(device: str) -> str:
    """Name and tag of the image for a device, by this package's version."""
    return f"metaug-ray:{project()['project']['version']}-{device}"
