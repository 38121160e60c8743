from metaug_ray.preflight.findings import Failed
from metaug_ray.preflight.objects import SIZE, check_objects, size_of
from tests.preflight.nodes import FIRST, HOME, the_fault


def test_what_arrives_in_part_or_not_at_all() -> None:
    assert size_of(bytes(SIZE)) == SIZE
    assert the_fault(check_objects({HOME: SIZE, FIRST: 7}, {})).measured == "of 8,000,000 bytes 7 arrive"
    lost = Failed("ObjectFetchTimedOutError: Failed to retrieve object")
    assert the_fault(check_objects({HOME: SIZE}, {FIRST: lost})).measured == lost.why
