import pytest
import ray

from metaug_ray.runtime.cluster import cluster
from metaug_ray.runtime.errors import ClusterError


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of this process may have joined one."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://127.0.0.1", "127.0.0.1:8265"])
def test_the_address_of_the_dashboard_is_told_from_that_of_the_cluster(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    said = (
        rf"no Ray cluster at {address} .*; that is the address of Ray's dashboard, which takes jobs: `ray job submit "
        r"--address http://127.0.0.1:8265 -- ...`; a command joins the cluster itself, at 127.0.0.1:6379"
    )
    with pytest.raises(ClusterError, match=said), cluster(None):
        pass


def test_an_address_where_nothing_is_says_who_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with (
        pytest.raises(
            ClusterError, match=r"at 127.0.0.1:9 .*; start one with `ray start --head`, or leave RAY_ADDRESS out"
        ),
        cluster(None),
    ):
        pass
    with pytest.raises(ClusterError, match=r"at 127.0.0.1:19 .* or leave the address out"), cluster("127.0.0.1:19"):
        pass
