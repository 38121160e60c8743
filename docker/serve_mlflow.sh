#!/usr/bin/env bash
# MLflow's server with user names and passwords, on port 5000 of this container.
#
# MLFLOW_BACKEND_STORE_URI names the database without its password, MLFLOW_ARTIFACTS_DESTINATION where artifacts lie.
# Secrets are files of SECRETS_DIR (default /run/secrets), and go on as variables of the environment: arguments would
# show in `ps`, and a password in the database's URI in MLflow's log.
set -euo pipefail

secret() {
    local file=${SECRETS_DIR:-/run/secrets}/$1
    if [ ! -s "$file" ]; then
        echo "serve_mlflow.sh: $file is missing or empty; docker/make_secrets.sh makes one" >&2
        return 1
    fi
    cat "$file"
}

: "${MLFLOW_BACKEND_STORE_URI:?serve_mlflow.sh: set it to postgresql://mlflow@HOST:5432/mlflow}"
: "${MLFLOW_ARTIFACTS_DESTINATION:?serve_mlflow.sh: set it to a folder or to s3://BUCKET}"
MLFLOW_AUTH_ADMIN_PASSWORD=$(secret mlflow_password)
MLFLOW_FLASK_SERVER_SECRET_KEY=$(secret mlflow_secret_key)
if [[ $MLFLOW_BACKEND_STORE_URI == postgresql* ]]; then
    PGPASSWORD=$(secret postgres_password)
    export PGPASSWORD
    # The driver that the image has: SQLAlchemy takes another one where none is named.
    export MLFLOW_BACKEND_STORE_URI=${MLFLOW_BACKEND_STORE_URI/#postgresql:/postgresql+psycopg2:}
fi

MLFLOW_AUTH_CONFIG_PATH=$(mktemp)
cat > "$MLFLOW_AUTH_CONFIG_PATH" <<INI
[mlflow]
default_permission = READ
database_uri = $MLFLOW_BACKEND_STORE_URI
admin_username = ${MLFLOW_AUTH_ADMIN_USERNAME:-admin}
INI

export MLFLOW_AUTH_ADMIN_PASSWORD MLFLOW_FLASK_SERVER_SECRET_KEY MLFLOW_AUTH_CONFIG_PATH
# What it would do besides, in seven more processes, nobody here uses.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
exec mlflow server --app-name basic-auth --host 0.0.0.0 --port 5000 --workers 2
