from typing import Any

import pytest
import ray.exceptions
from ray.train import ControllerError

from metaug_ray.training.fit import _fit_persistently


class Trainer:
    """Fails as often as it is told, with what Ray Train raises when it loses workers as they start."""

    failures: list[Exception]

    def fit(self) -> Any:
        if self.failures:
            raise self.failures.pop(0)
        return "result"


def made(*failures: Exception) -> type[Trainer]:
    return type("Made", (Trainer,), {"failures": list(failures)})


def test_workers_that_are_lost_as_they_start_are_started_again(caplog: pytest.LogCaptureFixture) -> None:
    lost = ControllerError(ray.exceptions.ActorDiedError())
    assert _fit_persistently(made(lost, lost), 2) == "result"
    assert caplog.text.count("they are started again") == 2
    with pytest.raises(ControllerError):
        _fit_persistently(made(lost, lost), 1)


def test_what_another_attempt_would_not_mend_is_raised_at_once() -> None:
    trainer = made(ControllerError(ValueError("wrong")))
    with pytest.raises(ControllerError, match="wrong"):
        _fit_persistently(trainer, 5)
