"""Where a cluster of this machine lies, and which ports it takes: variables of the environment."""

import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import combinations
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from services import ServiceError

from metaug_ray.addresses import holds_secret, masked

HOST: Final = "127.0.0.1"
_PORTS: Final = {"CLUSTER_RAY_PORT": 6379, "CLUSTER_DASHBOARD_PORT": 8265, "CLUSTER_MLFLOW_PORT": 5000}
_VARIABLES: Final = ("CLUSTER_FOLDER", "CLUSTER_START_SECONDS", *_PORTS)


@dataclass(frozen=True)
class Settings:
    """Where things are, from the environment."""

    folder: Path
    ray_port: int
    dashboard_port: int
    mlflow_port: int
    database: str
    artifacts: str
    seconds: float

    @property
    def token(self) -> Path:
        return self.folder / "token"

    @property
    def session(self) -> Path:
        """Link to Ray's own folder."""
        return self.folder / "session"

    @property
    def dashboard(self) -> str:
        return f"http://{HOST}:{self.dashboard_port}"

    @property
    def mlflow(self) -> str:
        return f"http://{HOST}:{self.mlflow_port}"


def read_settings() -> Settings:
    """Raises `ServiceError` for a variable that cannot be used."""
    _check_names()
    folder = Path(os.environ.get("CLUSTER_FOLDER") or Path.home() / "metaug_ray" / "cluster").expanduser().absolute()
    database = os.environ.get("MLFLOW_BACKEND_STORE_URI") or f"sqlite:///{folder}/mlflow.db"
    artifacts = os.environ.get("MLFLOW_ARTIFACTS_DESTINATION") or str(folder / "mlartifacts")
    if urlsplit(database).password is not None or holds_secret(database):
        raise ServiceError(
            "MLFLOW_BACKEND_STORE_URI holds a password, which MLflow would write into its log; "
            "leave it out, and give it as PGPASSWORD or in ~/.pgpass"
        )
    if holds_secret(artifacts):
        raise ServiceError(
            f"MLFLOW_ARTIFACTS_DESTINATION: {masked(artifacts)} holds a secret, which MLflow would write into its log; "
            "leave it out, and give it by your cloud's own variables, such as AWS_SECRET_ACCESS_KEY"
        )
    needed = {"psycopg2": database.startswith("postgresql"), "boto3": artifacts.startswith("s3://")}
    if missing := [module for module, used in needed.items() if used and find_spec(module) is None]:
        raise ServiceError(
            f"{' and '.join(missing)} is not installed, which MLflow needs for {database} and {artifacts}; "
            "give the command as `uv run --group server python ...`"
        )
    # The driver that is installed here; SQLAlchemy's own choice is another.
    database = re.sub("^postgresql:", "postgresql+psycopg2:", database)
    ports = {variable: _number(variable, default) for variable, default in _PORTS.items()}
    for first, second in combinations(ports, 2):
        if ports[first] == ports[second]:
            raise ServiceError(f"{first} and {second} are both {ports[first]}; give each a port of its own")
    return Settings(
        folder=folder,
        ray_port=ports["CLUSTER_RAY_PORT"],
        dashboard_port=ports["CLUSTER_DASHBOARD_PORT"],
        mlflow_port=ports["CLUSTER_MLFLOW_PORT"],
        database=database,
        artifacts=artifacts,
        seconds=_number("CLUSTER_START_SECONDS", 180),
    )


def _check_names() -> None:
    """Whether a variable is spelt nearly as one of these: others may have CLUSTER_ variables of their own."""
    for variable in sorted(set(os.environ) - set(_VARIABLES)):
        if variable.startswith("CLUSTER_") and (near := get_close_matches(variable, _VARIABLES, 1, 0.8)):
            raise ServiceError(f"{variable} is no setting; did you mean {near[0]}?")


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable) or str(default)
    if not text.isdigit() or not 1 <= int(text) <= 65535:
        raise ServiceError(f"{variable} is {text}; expected a number from 1 to 65535")
    return int(text)
