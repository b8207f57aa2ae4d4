"""Amazon's S3 as moto plays it, over HTTP on this machine."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import boto3
from moto.server import ThreadedMotoServer

BUCKET = "fleet"
_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}
_PUBLIC = {
    "Version": "2012-10-17",
    "Statement": [
        {
            "Effect": "Allow",
            "Principal": "*",
            "Action": ["s3:GetObject", "s3:ListBucket"],
            "Resource": [f"arn:aws:s3:::{BUCKET}/*", f"arn:aws:s3:::{BUCKET}"],
        }
    ],
}
"""Devices read without credentials, as from a public bucket or a CDN."""


@contextmanager
def amazon() -> Iterator[str]:
    """Serve S3 with an empty public bucket; the environment names the endpoint meanwhile."""
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    try:
        with patch.dict("os.environ", {**_ENVIRONMENT, "AWS_ENDPOINT_URL": endpoint}):
            client = boto3.client("s3")
            client.create_bucket(Bucket=BUCKET)
            client.put_bucket_policy(Bucket=BUCKET, Policy=json.dumps(_PUBLIC))
            client.close()
            yield endpoint
    finally:
        server.stop()
