"""What the pages say besides commands: their links, options, paths and excerpts are of this package."""

import re
import tomllib

import pytest
from pydantic import BaseModel

from metaug_ray import config
from metaug_ray.config.base import setting_names
from tests.docs.pages import EXTENDING, PAGES, ROOT, blocks, code_words, prose, read

READMES = (
    "jobs/README.md",
    "docker/README.md",
    "cluster/README.md",
    "cluster/cloud/README.md",
    "cluster/kuberay/README.md",
    "cluster/local/README.md",
    "cluster/slurm/README.md",
)
ALL = (*PAGES, EXTENDING, "CHANGELOG.md", *READMES)
COMMANDS = (
    "PrepareSettings",
    "PretrainSettings",
    "SweepSettings",
    "EvaluateSettings",
    "RegisterSettings",
    "CompareSettings",
    "PreflightSettings",
    "CapacitySettings",
)


def fields(model: type[BaseModel]) -> set[str]:
    """All settings below a model as `part.field_name`, the parts themselves among them."""
    names = [name.split(".") for name in setting_names(model)]
    return {".".join(name[:depth]) for name in names for depth in range(1, len(name) + 1)}


@pytest.fixture(scope="module")
def settings() -> set[str]:
    found = {"config", "preset", "sweep", "report", "print_config", "help"}
    return found.union(*(fields(getattr(config, name)) for name in COMMANDS))


def test_the_readme_is_for_the_first_hour() -> None:
    assert len(read("README.md").splitlines()) <= 170


@pytest.mark.parametrize("page", ALL)
def test_lines_fit(page: str) -> None:
    # A table's row and a shell command that is one word of an address have no place to break.
    long = [line for line in prose(page).splitlines() if len(line) > 120 and not line.lstrip().startswith("|")]
    long += [line for block in blocks(page) for line in block.text.splitlines() if len(line) > 140]
    assert not long


@pytest.mark.parametrize("page", ALL)
def test_blocks_are_fenced_with_their_language(page: str) -> None:
    """An indented command would escape the tests."""
    assert {block.language for block in blocks(page)} <= {"bash", "python", "text", "yaml"}
    assert not re.findall(r"^ {4,}(?:uv|make|export|\$) .*", prose(page), re.MULTILINE)


@pytest.mark.parametrize("page", ALL)
def test_links_lead_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), f"{page} links to {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}, target


@pytest.mark.parametrize("page", [*PAGES, EXTENDING])
def test_options_and_variables_are_those_of_the_commands(page: str, settings: set[str]) -> None:
    for word in code_words(page):
        if option := re.fullmatch(r"--([a-z][a-z0-9.-]*[a-z0-9])=?.*", word):
            name = option[1].replace("-", "_")
            assert name in settings or name.removeprefix("no_") in settings, f"{page}: there is no option {word}"
        if variable := re.match(r"METAUG_([A-Z0-9_]+)", word):
            name = variable[1].lower().replace("__", ".")
            assert name in settings, f"{page}: no setting reads {word}"


@pytest.mark.parametrize("page", ALL)
def test_paths_are_in_the_repository(page: str) -> None:
    for word in code_words(page):
        if re.fullmatch(r"(metaug_ray|tests|jobs|examples|docs|cluster|docker)/[\w./-]*", word.rstrip(":,")):
            assert (ROOT / word.rstrip(":,")).exists(), f"{page} names {word}"


@pytest.mark.parametrize("page", PAGES)
def test_excerpts_are_of_the_examples(page: str) -> None:
    """So that nobody copies Python that no test has run."""
    examples = [file.read_text() for file in (ROOT / "examples").glob("*.py")]
    for block in blocks(page, "python"):
        assert any(block.text in example for example in examples), f"{page}, line {block.line} is in no example"


def test_the_changelog_begins_with_this_version() -> None:
    # But for what is not released yet.
    version = tomllib.loads(read("pyproject.toml"))["project"]["version"]
    newest = re.search(r"^## (\S+)$", read("CHANGELOG.md"), re.MULTILINE)
    assert newest is not None
    assert newest[1] == version
