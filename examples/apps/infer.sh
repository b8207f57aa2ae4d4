#!/bin/sh
# Asks a model over the agent's Unix socket: FP32 numbers in, JSON out.
#
#     ./infer.sh /run/edge-agent/infer.sock MODEL INPUT 1.5 2 3
#
# One request of the Open Inference Protocol v2 by curl. Over TCP it is the same without --unix-socket, and with
# http://127.0.0.1:8000 in place of http://localhost.
set -eu

if [ $# -lt 4 ]; then
    echo "usage: $0 SOCKET MODEL INPUT NUMBER..." >&2
    exit 2
fi
socket=$1 model=$2 input=$3
shift 3
count=$#
data=$(printf '%s,' "$@")

# --fail-with-body: a refusal is an exit code, and its {"error": "..."} is still printed.
curl --silent --show-error --fail-with-body --unix-socket "$socket" \
    "http://localhost/v2/models/$model/infer" \
    --header 'Content-Type: application/json' \
    --data "{\"inputs\": [{\"name\": \"$input\", \"datatype\": \"FP32\", \"shape\": [1, $count],
             \"data\": [${data%,}]}]}"
echo
