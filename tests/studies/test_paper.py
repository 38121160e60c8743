"""The paper's studies: every file gives the sweep that docs/paper_studies.md says, at the paper's budget."""

import re
from pathlib import Path

import pytest

from metaug_ray.commands.tune import parse
from metaug_ray.config import SweepSettings
from metaug_ray.tuning.space import spaces, value_of

ROOT = Path(__file__).resolve().parents[2]
STUDIES = ROOT / "jobs" / "studies" / "paper"
FILES = sorted(file for file in STUDIES.glob("*.yaml") if not file.stem.startswith("base_"))
ROW = re.compile(r"^\| (?:table|figure) \d \| `(\w+)\.yaml` \|.*\| (?:(8) x )?(\d+) x (\d+) \| [\d,]+ \|$", re.M)


def study(file: Path) -> SweepSettings:
    """The sweep, each of whose points `parse` has tried."""
    base = "resnet50" if file.stem.startswith("table_6") else "alexnet"
    settings = parse(["--config", str(STUDIES / f"base_{base}.yaml"), "--sweep", str(file)]).settings
    assert settings is not None
    return settings


def runs(settings: SweepSettings) -> int:
    """How many runs the sweep has; one for each seed where nothing is searched in a group."""
    found = spaces(settings)
    searched = sum(len(space.cells()) for space in found.values() if space.parameters) * settings.search.seeds
    return searched + (len(found) * settings.compare.seeds if settings.compare is not None else 0)


def test_the_page_has_a_row_for_every_file_with_its_runs_and_epochs() -> None:
    rows = ROW.findall((ROOT / "docs" / "paper_studies.md").read_text(encoding="utf-8"))
    # Table 1 is a sweep for each of its eight columns.
    assert [row[0] for row in rows if row[1]] == ["table_1"]
    said = {name: (int(count), int(epochs)) for name, _, count, epochs in rows}
    assert said == {file.stem: (runs(study(file)), study(file).run.training.epochs) for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_study_has_its_name_and_nothing_that_is_set_in_vain(file: Path) -> None:
    settings = study(file)
    assert settings.run.name == file.stem
    assert not any(space.settings.method.idle_parameters for space in spaces(settings).values())


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_study_has_the_papers_budget(file: Path) -> None:
    run = study(file).run
    assert (run.bank.negatives, run.data.image_size, run.model.width) == (4096, 224, 1)
    training = run.training
    parts = (training.encoder, training.head, training.generator)
    optimizers = {(each.kind, each.learning_rate) for each in parts}
    if file.stem.startswith("table_6"):
        assert (run.model.encoder, len(run.model.views), training.batch_size) == ("resnet50", 2, 128)
        assert optimizers == {("sgd", 0.03)}
    else:
        assert (run.model.views, training.batch_size) == (("rgb", "l", "ab"), 64)
        assert optimizers == {("adam", 1e-3)}


@pytest.mark.parametrize("name", ["figure_4", "figure_6", "figure_7"])
def test_the_figures_are_searched_over_the_papers_ranges_whatever_the_base(name: str) -> None:
    small = ["--config", str(ROOT / "jobs" / "cifar10_conv.yaml"), "--data.beton", "data/cifar10.beton"]
    settings = parse([*small, "--sweep", str(STUDIES / f"{name}.yaml")]).settings
    assert settings is not None
    assert runs(settings) == runs(study(STUDIES / f"{name}.yaml"))


def test_figure_6_fixes_one_of_three_in_each_group() -> None:
    settings = study(STUDIES / "figure_6.yaml")
    for space in spaces(settings).values():
        (fixed,) = settings.space.keys() - space.parameters.keys()
        assert value_of(space.settings, fixed) in settings.space[fixed].values
        assert len(space.cells()) == 64
