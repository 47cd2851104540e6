"""Prepares the server's stores: the database schema of this MLflow version, and the bucket for artifacts."""

import os
import subprocess

import boto3


def main() -> None:
    """Safe to run again: an up-to-date schema and an existing bucket are left as they are."""
    subprocess.run(["mlflow", "db", "upgrade", os.environ["MLFLOW_BACKEND_STORE_URI"]], check=True)
    store = boto3.client("s3", endpoint_url=os.environ["MLFLOW_S3_ENDPOINT_URL"], region_name="us-east-1")
    bucket = os.environ["MLFLOW_BUCKET"]
    if bucket not in {found["Name"] for found in store.list_buckets()["Buckets"]}:
        store.create_bucket(Bucket=bucket)


if __name__ == "__main__":
    main()
