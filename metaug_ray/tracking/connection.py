"""Connections to MLflow: opened with clear errors, patient with large files, and few words for its client."""

import logging
import os
import re
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from shlex import quote as quoted
from typing import Any, Final
from urllib.parse import quote, unquote, urlsplit

import mlflow
from filelock import FileLock
from mlflow.entities import Experiment, LifecycleStage, Param
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from pydantic import TypeAdapter, ValidationError

from metaug_ray.addresses import holds_secret
from metaug_ray.config.base import Location, explain
from metaug_ray.config.tracking import VARIABLE
from metaug_ray.tracking.errors import TrackingError

_log = logging.getLogger(__name__)
_PARAMS_PER_REQUEST = 100
_LONGEST_PARAM = 6000
_NOT_IN_NAMES: Final = re.compile(r"[^\w.\- :/]")
"""Characters that MLflow refuses in a parameter's name, and with it all the parameters of a request."""
_UNAUTHENTICATED: Final = "failed with error code 401"
_PASSWORD: Final = (
    "give your name and password there by MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or in "
    "~/.mlflow/credentials"
)
_ARTIFACTS: Final = "mlartifacts"
"""Folder beside a database file."""


_ADDRESS: Final = TypeAdapter(Location)


def resolve_uri(uri: str) -> str:
    """A tracking URI with an absolute path: SQLite files may be given relative, or from the home folder on.

    Raises:
        TrackingError: it has a password.
    """
    try:
        return str(_ADDRESS.validate_python(uri))
    except ValidationError as error:
        raise TrackingError(f"tracking.uri: {explain(error)}") from error


def connect(uri: str, *, new: bool = True) -> MlflowClient:
    """A client of MLflow, which `mlflow`'s functions now talk to as well.

    Args:
        uri: as in :func:`resolve_uri`.
        new: make a database file that is not there.

    Raises:
        TrackingError: MLflow cannot be reached, or its database cannot be opened.
    """
    uri = resolve_uri(uri)
    database = _database(uri)
    if not new and database is not None and not database.exists():
        raise TrackingError(
            f"tracking.uri: there is no MLflow database {database}{_source(uri)}; check the path: a "
            "training, or the evaluation of a run, makes one"
        )
    # MLflow would try for four minutes; a journal tries again by itself, and a person is told.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    try:
        # Its bars for each file of some kilobytes hide what a user wants to read.
        os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        if database is not None and not database.exists():
            _log.info("MLflow's database %s is made", database)
        with _alone(database), warnings.catch_warnings():
            # What MLflow says of making its tables means nothing to a user.
            warnings.simplefilter("ignore")
            logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
            client = MlflowClient(_prepared(uri))
            client.search_experiments(max_results=1)
    except Exception as error:  # database drivers and HTTP libraries raise errors of their own
        advice = _PASSWORD if _UNAUTHENTICATED in str(error) else "start it, or give another address"
        raise TrackingError(
            f"tracking.uri: MLflow at {uri}{_source(uri)} cannot be used ({reason(error)}); {advice}"
        ) from error
    return client


@contextmanager
def environment_variables(**values: str) -> Iterator[None]:
    """Set variables of this process, and put back what they were in the end."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def patient() -> AbstractContextManager[None]:
    """Give large files time: :func:`connect` asks for answers within seconds."""
    return environment_variables(MLFLOW_HTTP_REQUEST_TIMEOUT="600", MLFLOW_HTTP_REQUEST_MAX_RETRIES="3")


def now() -> int:
    """Milliseconds since 1970, MLflow's time."""
    return round(1000 * time.time())


def reason(error: BaseException) -> str:
    """The first line of what an error says; of an HTTP library's nested ones, the innermost."""
    lines = str(error).strip().splitlines()
    if not lines:
        return type(error).__name__
    _, nested, innermost = lines[0].rpartition("(Caused by ")
    return (innermost.removesuffix(")") if nested else innermost)[:300]


def find_experiment(client: MlflowClient, uri: str, name: str) -> str:
    """The id of an experiment; it is made where it is not there.

    Raises:
        MlflowException: MLflow refuses.
        TrackingError: it was deleted, or its files are not where the database says.
    """
    found = known_experiment(client, uri, name)
    if found is None:
        path = _database(resolve_uri(uri))
        # Names may hold what no folder's may.
        location = None if path is None else (path.parent / _ARTIFACTS / quote(name, safe=" ")[:200]).as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            # Another run may have made it in between.
            found = known_experiment(client, uri, name)
            if found is None:
                raise
    if moved := moved_files(uri, found.artifact_location):
        raise TrackingError(f"tracking.uri: {moved}")
    return str(found.experiment_id)


def known_experiment(client: MlflowClient, uri: str, name: str) -> Experiment | None:
    """An experiment that is there; None where it is not.

    Raises:
        MlflowException: MLflow refuses.
        TrackingError: it was deleted: MLflow takes nothing under its name, and gives none of its runs.
    """
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == LifecycleStage.DELETED:
        restore = f"MLFLOW_TRACKING_URI={quoted(resolve_uri(uri))} mlflow experiments restore -x {found.experiment_id}"
        raise TrackingError(
            f"tracking.experiment: {name!r} was deleted from MLflow at {uri}; restore it with `{restore}`, or choose "
            "another --tracking.experiment"
        )
    return found


def check_tracking(uri: str, experiment: str, *, new: bool = True, registry: bool = False) -> None:
    """Refuse, before anything is computed, what MLflow would refuse at its end.

    Args:
        uri: of MLflow.
        experiment: that something will be logged to; it is not made yet.
        new: make a database file that is not there.
        registry: whether a model will be registered too.

    Raises:
        TrackingError: MLflow cannot be used, the experiment was deleted, or its files are not where the database says.
    """
    client = connect(uri, new=new)
    try:
        found = known_experiment(client, uri, experiment)
        if found is not None and (moved := moved_files(uri, found.artifact_location)):
            raise TrackingError(f"tracking.uri: {moved}")
        if registry:
            client.search_registered_models(max_results=1)
    except MlflowException as error:
        raise TrackingError(f"tracking: MLflow at {uri} refuses ({reason(error)})") from error


def moved_files(uri: str, location: str | None) -> str | None:
    """What to do where a database file was moved: it holds the absolute path of its artifacts.

    Args:
        uri: of MLflow.
        location: where its artifacts lie, as the database says.

    Returns:
        None where they are there, or nobody can tell.
    """
    database = _database(resolve_uri(uri))
    if database is None or location is None or not location.startswith(("file://", "/")):
        return None
    recorded = Path(unquote(urlsplit(location).path))
    folder = next((above for above in (recorded, *recorded.parents) if above.name == _ARTIFACTS), None)
    beside = database.parent / _ARTIFACTS
    if folder is None or folder == beside or recorded.exists():
        return None
    target, link = (beside / recorded.relative_to(folder), recorded) if folder.exists() else (beside, folder)
    if folder.exists() and not target.exists():  # nothing was ever written there
        return None
    mends = (
        f"they lie in {target} now: `{_linked(target, link)}` mends it" if target.exists() else "put them back there"
    )
    return (
        f"MLflow's database {database} was moved, and says that its artifacts are in {link}, which is missing; {mends}"
    )


_SERVERS = ("http", "https", "databricks", "postgresql", "mysql", "mssql")


def _prepared(uri: str) -> str:
    """The URI, which `mlflow`'s functions now use; one that MLflow would take for a folder is refused."""
    if _database(uri) is None and urlsplit(uri).scheme not in _SERVERS:
        raise ValueError("expected http://host:port of a server, or sqlite:///path of a database file")
    if uri.startswith("sqlite:///") and any(mark in uri for mark in "?%"):
        raise ValueError("SQLAlchemy reads '?' and '%' in a database's path as something else; choose another path")
    # MLflow sets its variable besides, which is the default of the next settings' tracking.uri.
    with environment_variables(**{VARIABLE: uri}):
        mlflow.set_tracking_uri(uri)
    return uri


@contextmanager
def _alone(database: Path | None) -> Iterator[None]:
    """Keep other processes of this machine from a database file: MLflow makes its tables at the first call, and two at
    once would break one another's."""
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
    # Whoever may only read makes no tables.
    if database is None or not os.access(database.parent, os.W_OK):
        yield
        return
    with FileLock(database.with_name(f".{database.name}.lock"), timeout=120):
        yield


def _linked(target: Path, link: Path) -> str:
    """A shell's line that makes a link."""
    return f"mkdir -p {quoted(str(link.parent))} && ln -s {quoted(str(target))} {quoted(str(link))}"


def _source(uri: str) -> str:
    """Who said so, where it was no option."""
    said = os.environ.get(VARIABLE)
    return f" ({VARIABLE})" if said and not holds_secret(said) and resolve_uri(said) == uri else ""


def _database(uri: str) -> Path | None:
    return Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else None


def log_params(client: MlflowClient, run_id: str, values: Mapping[str, str]) -> None:
    """In as many requests as MLflow wants."""
    params = [Param(name, value) for name, value in values.items()]
    for start in range(0, len(params), _PARAMS_PER_REQUEST):
        client.log_batch(run_id, params=params[start : start + _PARAMS_PER_REQUEST])


def flat(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested settings by dotted names, as MLflow's strings. In names that people choose, as those of a sweep's groups,
    an underscore stands for what MLflow does not take."""
    named: dict[str, str] = {}
    for given, value in values.items():
        name = _NOT_IN_NAMES.sub("_", given)
        if isinstance(value, dict):
            named |= flat(value, f"{prefix}{name}.")
        else:
            named[prefix + name] = str(value)[:_LONGEST_PARAM]
    return named
