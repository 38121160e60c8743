import logging

import pytest

from metaug_ray.runtime.log import shown_log


def test_a_line_is_shown_once_whatever_libraries_do(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.StreamHandler()
    logging.getLogger().addHandler(root)
    try:
        with shown_log():
            logging.getLogger("metaug_ray.somewhere").info("begun")
        logging.getLogger("metaug_ray.somewhere").info("not shown")
    finally:
        logging.getLogger().removeHandler(root)
    shown = capsys.readouterr()
    assert [line[9:] for line in shown.out.splitlines()] == ["begun"]
    assert shown.err == ""
