import os

import pytest

from metaug_ray.errors import UserError
from metaug_ray.names import readable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (b"caf\xe9", r"caf\xe9"),
        ("café".encode(), "café"),
        ("猫 🐈‍⬛ हिन्दी".encode(), "猫 🐈‍⬛ हिन्दी"),
        (b"a\nb\tc\x1b[2J", r"a\nb\tc\x1b[2J"),
        ("a\u2028b".encode(), r"a\u2028b"),
        (b"$5 [1] ~x %s {y} \\", "$5 [1] ~x %s {y} \\"),
    ],
)
def test_a_name_is_shown_on_one_line_of_unicode(name: bytes, shown: str) -> None:
    assert readable(os.fsdecode(name)) == shown
    assert "\n" not in readable(os.fsdecode(name)).encode().decode()


def test_a_message_keeps_its_lines_and_can_be_printed() -> None:
    message = str(UserError(os.fsdecode(b"caf\xe9: wrong\nsecond line")))
    assert message == "caf\\xe9: wrong\nsecond line"
    assert message.encode()
