from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ffcv.libffcv import lib

from metaug_ray.data import decoder
from metaug_ray.data.beton import BetonWriter
from metaug_ray.data.decoder import decoding_rows
from metaug_ray.data.encoding import EncodedImage, Encoding, encode
from metaug_ray.data.mapped import MappedBeton, Stored, open_beton
from metaug_ray.data.sources.record import Record
from tests.data.images import picture

SIZE = 16


@pytest.fixture
def beton(tmp_path: Path) -> MappedBeton:
    """Five JPEGs."""
    path = tmp_path / "x.beton"
    with BetonWriter(path, 5) as writer:
        for number in range(5):
            image = encode(number, Record("x", 0, picture(number)), Encoding("jpeg", 512))
            assert isinstance(image, EncodedImage)
            writer.append(image)
    return open_beton(path)


def test_rows_hold_an_image_and_its_crops() -> None:
    boxes = np.arange(8).reshape(2, 4)
    flips = np.array([True, False])
    stored = Stored(*np.array([[70, 90], [71, 91], [72, 92], [73, 93], [1, 0]]))
    rows = decoding_rows(stored, [(boxes, flips), (boxes + 10, ~flips)])
    assert rows.tolist() == [
        [70, 71, 72, 73, 1, 0, 1, 2, 3, 1, 10, 11, 12, 13, 0],
        [90, 91, 92, 93, 0, 4, 5, 6, 7, 0, 14, 15, 16, 17, 1],
    ]
    assert rows.flags.c_contiguous


def test_an_image_is_decoded_once_for_all_its_crops(beton: MappedBeton, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is compiled, run as Python, with each call of FFCV's library counted."""
    boxes = np.array([[0, 0, 10, 12], [2, 3, 9, 8], [1, 1, 5, 5]])
    flips = np.array([True, False, True])
    # Three crops of image 4.
    crops = [(box[None], flip[None]) for box, flip in zip(boxes, flips, strict=True)]
    rows = decoding_rows(beton.stored(np.array([4])), crops)
    compiled = np.zeros((3, 1, SIZE, SIZE, 3), np.uint8)
    decoder._decode_in_order(rows, compiled)
    called: list[str] = []

    def counted(name: str) -> Any:
        def call(*arguments: Any) -> int:
            called.append(name)
            return int(getattr(lib, name)(*map(int, arguments)) or 0)

        return call

    monkeypatch.setattr(decoder, "c_imdecode", counted("imdecode"))
    monkeypatch.setattr(decoder, "c_resize", counted("resize"))
    for name in ("_show", "_decode_image", "_decode_in_order"):
        monkeypatch.setattr(decoder, name, getattr(decoder, name).py_func)
    shown = np.zeros_like(compiled)
    decoder._decode_in_order(rows, shown)
    assert called == ["imdecode", "resize", "resize", "resize"]
    assert np.array_equal(shown, compiled)
    assert len({crop.tobytes() for crop in shown}) == 3
