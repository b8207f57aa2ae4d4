#!/bin/sh
# Sends a file of raw numbers to a model's only input, as a camera or a recorder leaves them; JSON out.
#
#     ./raw.sh /run/edge-agent/infer.sock MODEL INPUT DATATYPE 1,224,224,3 frame.rgb
#
# The binary tensor extension by curl and a shell: the JSON says what the bytes are, the bytes follow it, and a
# header says where the one ends. No number is ever turned into text, so that large tensors are quick.
set -eu
LC_ALL=C # so that ${#json} counts bytes

if [ $# -ne 6 ]; then
    echo "usage: $0 SOCKET MODEL INPUT DATATYPE SHAPE FILE" >&2
    exit 2
fi
socket=$1 model=$2 input=$3 datatype=$4 shape=$5 file=$6
size=$(($(wc -c <"$file")))
json="{\"inputs\": [{\"name\": \"$input\", \"datatype\": \"$datatype\", \"shape\": [$shape],
       \"parameters\": {\"binary_data_size\": $size}}]}"

{ printf '%s' "$json" && cat "$file"; } | curl --silent --show-error --fail-with-body --unix-socket "$socket" \
    "http://localhost/v2/models/$model/infer" \
    --header 'Content-Type: application/octet-stream' \
    --header "Inference-Header-Content-Length: ${#json}" \
    --data-binary @-
echo
