"""Whether MLflow takes a run: from the driver, which alone talks to it."""

import os
import tempfile
import uuid
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from mlflow.entities import Experiment, ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.tracking import MlflowClient

from metaug_ray.config.tracking import TrackingSettings
from metaug_ray.errors import UserError
from metaug_ray.preflight.findings import DRIVER, Finding, fault
from metaug_ray.preflight.rates import folder_for_a_while
from metaug_ray.tracking.connection import connect, known_experiment, moved_files, reason

_CHECK: Final = "MLflow"
_TAG: Final = "metaug.preflight"
_DATABASE: Final = "sqlite:///"


def check_mlflow(settings: TrackingSettings) -> list[Finding]:
    """Whether the driver may read and write, without a trace of it.

    Args:
        settings: of MLflow.
    """
    uri = settings.uri
    if uri.startswith(_DATABASE) and not Path(uri.removeprefix(_DATABASE)).exists():
        return [_new_database(Path(uri.removeprefix(_DATABASE)))]
    try:
        client = connect(uri, new=False)
        found = known_experiment(client, uri, settings.experiment)
        if found is not None and (moved := moved_files(uri, found.artifact_location)):
            return [fault(DRIVER, _CHECK, moved, "see what it says, or give another --tracking.uri")]
        _try_to_make(client, found)
        if found is not None:
            _try_to_change(client, found)
    except (UserError, MlflowException) as error:
        said, _, advice = str(error).rpartition("; ") if isinstance(error, UserError) else (reason(error), "", "")
        return [
            fault(DRIVER, _CHECK, said if isinstance(error, UserError) else f"{uri}: {said}", _advice(said, advice))
        ]
    if found is None:
        return [Finding(DRIVER, _CHECK, f"{uri}: experiment {settings.experiment!r} will be made")]
    return [Finding(DRIVER, _CHECK, f"{uri}: experiment {settings.experiment!r} can be written"), _artifacts(found)]


def _new_database(path: Path) -> Finding:
    above = next(folder for folder in path.parents if folder.exists())
    if above.is_dir() and os.access(above, os.W_OK | os.X_OK):
        return Finding(DRIVER, _CHECK, f"{path} will be made")
    return fault(DRIVER, _CHECK, f"{path} cannot be made: {above} cannot be written", "give another --tracking.uri")


def _try_to_make(client: MlflowClient, known: Experiment | None) -> None:
    """Make an experiment under a name that there is, also among deleted ones: whoever may make one is told so, and
    nothing comes of it."""
    there = [known] if known is not None else client.search_experiments(view_type=ViewType.ALL, max_results=1)
    if not there:
        return
    try:
        client.create_experiment(there[0].name)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def _try_to_change(client: MlflowClient, experiment: Experiment) -> None:
    """A tag that is taken away at once; MLflow's own passwords give rights for each experiment."""
    client.set_experiment_tag(experiment.experiment_id, _TAG, "1")
    client.delete_experiment_tag(experiment.experiment_id, _TAG)


def _artifacts(experiment: Experiment) -> Finding:
    """Whether figures and models can be kept where the experiment's lie."""
    check, location = f"{_CHECK}'s artifacts", experiment.artifact_location
    name = f".preflight-{uuid.uuid4().hex[:12]}"
    try:
        store = get_artifact_repository(f"{location}/{name}")
        with _kept_as_it_was(location), tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "token")
            file.write_text(name)
            try:
                store.log_artifact(str(file))  # type: ignore[no-untyped-call]
                if [found.path for found in store.list_artifacts()] != ["token"]:
                    raise OSError("what was written is not there")
            finally:
                store.delete_artifacts()  # type: ignore[no-untyped-call]
    # Clients of object stores raise errors of their own.
    except Exception as error:
        advice = "give this machine the credentials of MLflow's artifacts, or start its server with --serve-artifacts"
        return fault(DRIVER, check, f"{location} cannot be written ({reason(error)})", advice)
    return Finding(DRIVER, check, f"{location} can be written")


def _kept_as_it_was(location: str) -> AbstractContextManager[object]:
    """MLflow makes folders of this machine, and does not remove them."""
    if not location.startswith(("file://", "/")):
        return nullcontext()
    return folder_for_a_while(Path(unquote(urlsplit(location).path)))


def _advice(said: str, advice: str) -> str:
    if "401" in said or "not authenticated" in said:
        return "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD where the job is given"
    if "403" in said or "PERMISSION_DENIED" in said or "ermission denied" in said:
        return "ask who runs MLflow for the right to write in this experiment, or give another --tracking.experiment"
    return advice or "look at MLflow's own log"
