"""What runs beside a cluster, on a host of its own: PostgreSQL, S3, and MLflow with passwords."""

import os
import secrets
import subprocess
import time
from pathlib import Path
from typing import Final

from tests.namespaces import Host

POSTGRES: Final = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/usr/lib/postgresql/bin"))
_ROOT: Final = Path(__file__).resolve().parents[2]
_PACKAGES: Final = ("mlflow==3.17.2", "psycopg2-binary", "boto3", "flask-wtf<2", "moto[server]")


class Services:
    """They listen on their host's address."""

    def __init__(self, host: Host, uv: str) -> None:
        self._host = host
        self._folder = host.folder
        self.password, self._database_password = secrets.token_urlsafe(12), secrets.token_urlsafe(12)
        self.uri = f"http://{host.address}:5000"
        self._environment = self._folder / "venv"
        subprocess.run([uv, "venv", "-q", str(self._environment)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "-p", str(self._environment), *_PACKAGES], check=True)
        self._processes: dict[str, subprocess.Popen[str]] = {}
        self._make_database()
        self.start_database()
        self._query(f"ALTER USER postgres PASSWORD '{self._database_password}'; CREATE DATABASE mlflow;")
        self._start("s3", str(self._environment / "bin/moto_server"), "-H", host.address, "-p", "9000")
        self._make_bucket()
        self.start_mlflow()

    def start_database(self) -> None:
        data = str(self._folder / "postgres")
        command = ("runuser", "-u", "postgres", "--", str(POSTGRES / "postgres"), "-D", data, "-k", data)
        self._start("postgres", *command, "-c", f"listen_addresses={self._host.address}")
        self._until(lambda: self._query("SELECT 1") == 0, "PostgreSQL")

    def stop_database(self) -> None:
        """As a restart of its machine ends it."""
        pid = int((self._folder / "postgres/postmaster.pid").read_text().split()[0])
        os.kill(pid, 2)
        self._processes.pop("postgres").wait()

    def start_mlflow(self) -> None:
        place = self._folder / "secrets"
        place.mkdir(exist_ok=True)
        for name, secret in (
            ("mlflow_password", self.password),
            ("mlflow_secret_key", "of the forms"),
            ("postgres_password", self._database_password),
        ):
            (place / name).write_text(secret)
        environment = {
            "SECRETS_DIR": str(place),
            "MLFLOW_BACKEND_STORE_URI": f"postgresql://postgres@{self._host.address}:5432/mlflow",
            "MLFLOW_ARTIFACTS_DESTINATION": "s3://metaug",
            "MLFLOW_S3_ENDPOINT_URL": f"http://{self._host.address}:9000",
            "MLFLOW_SERVER_ALLOWED_HOSTS": "*",
            "AWS_ACCESS_KEY_ID": "any",
            "AWS_SECRET_ACCESS_KEY": "any",
            "AWS_DEFAULT_REGION": "us-east-1",
            "PATH": f"{self._environment / 'bin'}:{os.environ['PATH']}",
        }
        self._start("mlflow", "bash", str(_ROOT / "docker/serve_mlflow.sh"), environment=environment)
        self._until(self._mlflow_answers, "MLflow")

    def stop_mlflow(self) -> None:
        self._host.kill_all_named("mlflow", "uvicorn")
        self._processes.pop("mlflow").wait()

    def artifacts(self) -> int:
        """How many objects MLflow has put into S3."""
        said = self._s3("print(len(s3.list_objects_v2(Bucket='metaug').get('Contents', [])))")
        return int(said.split()[-1])

    def _make_database(self) -> None:
        place = self._folder / "postgres"
        place.mkdir()
        for part in (place, *place.parents):
            if part.stat().st_uid == os.geteuid() and part != Path("/"):
                part.chmod(part.stat().st_mode | 0o711)
        subprocess.run(["chown", "postgres", str(place)], check=True)
        command = ["runuser", "-u", "postgres", "--", str(POSTGRES / "initdb"), "-D", str(place), "-A", "trust"]
        subprocess.run(command, check=True, capture_output=True)
        with (place / "pg_hba.conf").open("a") as file:
            file.write("host all all 0.0.0.0/0 scram-sha-256\n")

    def _make_bucket(self) -> None:
        self._until(lambda: not self._s3("s3.create_bucket(Bucket='metaug')"), "the S3 server")

    def _s3(self, statement: str) -> str:
        """What a statement about `s3` prints."""
        endpoint = f"http://{self._host.address}:9000"
        keys = "region_name='us-east-1', aws_access_key_id='any', aws_secret_access_key='any'"
        code = f"import boto3; s3 = boto3.client('s3', endpoint_url='{endpoint}', {keys}); {statement}"
        return self._call(str(self._environment / "bin/python"), "-c", code)

    def _query(self, sql: str) -> int:
        command = ["runuser", "-u", "postgres", "--", str(POSTGRES / "psql"), "-h", str(self._folder / "postgres")]
        found = 0
        for part in sql.strip(";").split(";"):
            found |= subprocess.run([*command, "-c", part], capture_output=True).returncode
        return found

    def _mlflow_answers(self) -> bool:
        said = self._call(
            "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"{self.uri}/api/2.0/mlflow/experiments/search"
        )
        return said.strip() == "401"

    def _call(self, *command: str) -> str:
        process = self._host.start(*command, log=subprocess.PIPE)
        said, _ = process.communicate(timeout=60)
        return said

    def _start(self, name: str, *command: str, environment: dict[str, str] | None = None) -> None:
        log = (self._folder / f"{name}.log").open("a")
        self._processes[name] = self._host.start(*command, log=log, environment=environment)

    def _until(self, true: object, what: str) -> None:
        assert callable(true)
        end = time.monotonic() + 180
        while not true():
            if time.monotonic() > end:
                raise OSError(f"{what} does not answer; see {self._folder}")
            time.sleep(0.5)
