#!/usr/bin/env bash
# Draws every secret that compose.yaml and cluster/kuberay need: docker/make_secrets.sh [FOLDER]
#
# A file that is there stays as it is. Only you may enter the folder; its files can be read by all, as a container's
# user has another number than you.
set -euo pipefail
umask 077

folder=${1:-$(dirname "$0")/secrets}
mkdir -p "$folder"
chmod 700 "$folder"
cd "$folder"

# write FILE: what comes in, unless the file is there.
write() {
    if [ -e "$1" ]; then
        cat > /dev/null
    else
        cat > "$1.new"
        chmod 444 "$1.new"
        mv "$1.new" "$1"
    fi
}

random() {
    head -c "$1" /dev/urandom | od -An -tx1 | tr -d ' \n'
}

for name in ray_token postgres_password mlflow_password mlflow_secret_key s3_secret_key; do
    random 32 | write "$name"
done
random 10 | write s3_access_key

# What MLflow's and AWS's clients read.
printf '[mlflow]\nmlflow_tracking_username = admin\nmlflow_tracking_password = %s\n' "$(cat mlflow_password)" |
    write mlflow_credentials
printf '[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n' "$(cat s3_access_key)" "$(cat s3_secret_key)" |
    write aws_credentials
echo "$PWD: $(ls)" | tr '\n' ' '
echo
