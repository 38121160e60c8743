"""What the package logs, without what libraries do."""

import pytest


class Log:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self._caplog = caplog

    @property
    def messages(self) -> list[str]:
        return [record.getMessage() for record in self._caplog.records if record.name.startswith("metaug_ray")]
