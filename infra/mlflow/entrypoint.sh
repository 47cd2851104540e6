#!/bin/sh
# Turns mounted secrets into the environment of one process; they appear in no image, command line or manifest.
set -eu
MLFLOW_BACKEND_STORE_URI="postgresql+psycopg2://mlflow:$(cat /run/secrets/postgres_password)@${POSTGRES_HOST}:5432/mlflow"
AWS_ACCESS_KEY_ID="$(cat /run/secrets/store_user)"
AWS_SECRET_ACCESS_KEY="$(cat /run/secrets/store_password)"
export MLFLOW_BACKEND_STORE_URI AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
exec "$@"
