import pytest

from metaug_ray.addresses import holds_secret, masked, without_secret


@pytest.mark.parametrize(
    ("address", "shown", "left"),
    [
        ("http://me:hunter2@host:5000/a", "http://me:***@host:5000/a", "http://me@host:5000/a"),
        ("http://me:1234@host", "http://me:***@host", "http://me@host"),
        ("http://:hunter2@host", "http://:***@host", "http://@host"),
        ("http://me:hunter/2@host", "http://me:***@host", "http://me@host"),
        ("s3://AKIA:hunter2/+=@bucket/runs", "s3://AKIA:***@bucket/runs", "s3://AKIA@bucket/runs"),
        ("postgresql+psycopg2://u:hunter2@h/d", "postgresql+psycopg2://u:***@h/d", "postgresql+psycopg2://u@h/d"),
        ("postgresql://h/d?password=hunter2", "postgresql://h/d?password=***", "postgresql://h/d"),
        ("s3://b?region=x&secret_key=hunter2", "s3://b?region=x&secret_key=***", "s3://b?region=x"),
        (
            "https://h/x.beton?sv=1&sig=hunter2&se=2",
            "https://h/x.beton?sv=1&sig=***&se=2",
            "https://h/x.beton?sv=1&se=2",
        ),
        ("http://me:p@ss@host", "http://me:***@host", "http://me@host"),
        ("http://me:123,abc@h/", "http://me:***@h/", "http://me@h/"),
        ("https://h/x?api_key=hunter2&a=1", "https://h/x?api_key=***&a=1", "https://h/x?a=1"),
        ("https://h/x?X-Amz-Security-Token=hunter2#a", "https://h/x?X-Amz-Security-Token=***#a", "https://h/x#a"),
    ],
)
def test_secrets_are_found_shown_as_stars_and_left_out(address: str, shown: str, left: str) -> None:
    assert holds_secret(address)
    assert masked(address) == shown
    assert masked(masked(address)) == shown
    assert masked(f"MLflow at '{address}', and {address}") == f"MLflow at '{shown}', and {shown}"
    assert not holds_secret(without_secret(address))
    assert without_secret(address) == left


@pytest.mark.parametrize(
    "address",
    [
        "http://host:5000",
        "http://127.0.0.1:9",
        "http://[::1]:5000/a@b",
        "http://host:5000/a@b",
        "postgresql://mlflow@postgres:5432/mlflow",
        "sqlite:////home/a:b@c/mlflow.db",
        "s3://bucket/a:b@c",
        "s3://bucket/runs?endpoint_override=http://127.0.0.1:9000&region=us-east-1",
        "/data/a:b@c.beton",
        "postgresql://mlflow@h/d?sslkey=/etc/client.pem",
        "MLflow at http://host:5000 cannot be used; write to me@host",
    ],
)
def test_other_addresses_stay_as_they_are(address: str) -> None:
    assert masked(address) == without_secret(address) == address
