import io
import tracemalloc
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from ffcv.fields.decoders import CenterCropRGBImageDecoder
from ffcv.loader import Loader
from ffcv.transforms import ToTensor
from PIL import Image

from metaug_ray.data.beton import BetonWriter, sha256_of, verify_beton
from metaug_ray.data.encoding import EncodedImage, Encoding, encode
from metaug_ray.data.errors import DataError
from metaug_ray.data.mapped import open_beton
from metaug_ray.data.sources.record import Record
from tests.data.images import picture


def images(count: int, kind: str = "raw", size: int = 16) -> list[EncodedImage]:
    encoding = Encoding(kind, 512)  # type: ignore[arg-type]
    encoded = [encode(row, Record("x", row % 3 - 1, picture(row, size, size)), encoding) for row in range(count)]
    return [image for image in encoded if isinstance(image, EncodedImage)]


def write(path: Path, content: list[EncodedImage], capacity: int | None = None) -> Path:
    with BetonWriter(path, capacity or len(content)) as writer:
        for image in content:
            writer.append(image)
    return path


def verify(path: Path, content: list[EncodedImage]) -> str:
    return verify_beton(path, np.array([image.label for image in content]), [image.crc for image in content])


def test_ffcvs_own_loader_reads_it(tmp_path: Path) -> None:
    path = write(tmp_path / "x.beton", images(10))
    batches = list(Loader(str(path), 5, num_workers=1, pipelines={}))
    assert np.array_equal(batches[1][0][2].numpy(), picture(7, 16, 16))
    assert batches[1][1].flatten().tolist() == [(row % 3) - 1 for row in range(5, 10)]


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    content = images(7, "mixed")
    path = write(tmp_path / "x.beton", content)
    assert verify(path, content) == sha256_of(path)
    beton = open_beton(path)
    assert beton.labels.tolist() == [row % 3 - 1 for row in range(7)]
    assert (beton.heights.tolist(), beton.widths.tolist()) == ([16] * 7, [16] * 7)


def test_fewer_images_than_the_capacity(tmp_path: Path) -> None:
    content = images(3)
    verify(write(tmp_path / "x.beton", content, capacity=50), content)


def test_the_same_images_give_the_same_bytes_and_hold_no_memory(tmp_path: Path) -> None:
    (image,) = images(1, size=2)
    sizes = []
    for name, count in (("a", 10_000), ("b", 20_000), ("c", 20_000)):
        tracemalloc.start()
        write(tmp_path / name, [image] * count)
        sizes.append(tracemalloc.get_traced_memory()[1] - 8 * count)  # without the list
        tracemalloc.stop()
    # 48 bytes an image for each table, had they been kept.
    assert sizes[1] - sizes[0] < 10 * 10_000
    assert (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    assert len(open_beton(tmp_path / "b")) == 20_000


def test_no_image_lies_across_two_pages(tmp_path: Path) -> None:
    content = images(30, size=512)
    beton = open_beton(write(tmp_path / "x.beton", content))
    starts, sizes = beton.alloc_table["ptr"], beton.alloc_table["size"]
    assert (
        (starts // int(beton.header["page_size"]))
        == ((starts + sizes - np.uint64(1)) // int(beton.header["page_size"]))
    ).all()
    assert len(np.unique(starts // int(beton.header["page_size"]))) > 2
    verify(tmp_path / "x.beton", content)


def test_pages_grow_with_the_images(tmp_path: Path) -> None:
    content = [*images(3, size=16), *images(2, size=512), *images(3, size=16)]
    path = write(tmp_path / "x.beton", content)
    beton = open_beton(path)
    starts, sizes = beton.alloc_table["ptr"], beton.alloc_table["size"]
    assert int(beton.header["page_size"]) == 8 << 20
    assert (
        (starts // int(beton.header["page_size"]))
        == ((starts + sizes - np.uint64(1)) // int(beton.header["page_size"]))
    ).all()
    verify(path, content)
    # Without the system's cache FFCV reads whole pages.
    pipelines = {"image": [CenterCropRGBImageDecoder((16, 16), 1.0), ToTensor()]}
    batches = list(Loader(str(path), 1, num_workers=1, os_cache=False, pipelines=pipelines))
    assert all(batches[row][0][0].numpy().tobytes() == content[row].data for row in (0, 1, 2, 5, 6, 7))
    assert open_beton(write(tmp_path / "y.beton", images(10))).header["page_size"] == 2 << 20


def test_an_exception_leaves_no_readable_file(tmp_path: Path) -> None:
    with suppress(KeyError), BetonWriter(tmp_path / "x.beton", 5) as writer:
        writer.append(images(1)[0])
        raise KeyError
    with pytest.raises(DataError):
        open_beton(tmp_path / "x.beton")


def test_verification_finds_a_flipped_byte_another_order_and_another_label(tmp_path: Path) -> None:
    content = images(5)
    path = write(tmp_path / "x.beton", content)
    with pytest.raises(DataError, match="labels read back differ"):
        verify_beton(path, np.array([0, 0, 0, 0, 0]), [image.crc for image in content])
    crcs = [image.crc for image in content]
    with pytest.raises(DataError, match="image 1 read back differs"):
        verify_beton(path, np.array([image.label for image in content]), [crcs[0], crcs[2], crcs[1], *crcs[3:]])
    data = bytearray(path.read_bytes())
    data[int(open_beton(path).alloc_table["ptr"][3]) + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match="image 3 read back differs"):
        verify(path, content)


def test_verification_finds_what_ffcv_cannot_decode(tmp_path: Path) -> None:
    broken = b"\xff\xd8 not a JPEG"
    content = [EncodedImage(0, 16, 16, True, broken, zlib.crc32(broken))]
    with pytest.raises(DataError, match="image 0 does not decode"):
        verify(write(tmp_path / "x.beton", content), content)


def test_verification_finds_a_decoding_that_is_off(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(picture(0, 32, 32)).save(file, "JPEG")
    data = file.getvalue()
    content = [EncodedImage(0, 16, 16, True, data, zlib.crc32(data))]
    with pytest.raises(DataError, match="image 0 does not decode"):
        verify(write(tmp_path / "x.beton", content), content)


@pytest.mark.parametrize("kept", [0, 10, 500, 5000, 1 << 22, -200, -1])
def test_a_truncated_beton_is_refused(tmp_path: Path, kept: int) -> None:
    path = write(tmp_path / "x.beton", images(9))
    data = path.read_bytes()
    path.write_bytes(data[:kept])
    with pytest.raises(DataError, match=r"x\.beton: is not a"):
        open_beton(path)


def test_another_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.beton"
    path.write_bytes(np.random.default_rng(0).bytes(100_000))
    with pytest.raises(DataError, match=r"x\.beton: is not a"):
        open_beton(path)
