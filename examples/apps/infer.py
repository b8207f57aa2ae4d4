"""Asks a model over the agent's Unix socket: python infer.py SOCKET MODEL 1.5 2 3"""

import sys

import numpy as np

from edge_agent.client import Client

with Client(sys.argv[1]) as client:  # Client() finds the agent of this host
    result = client.infer(sys.argv[2], np.array([sys.argv[3:]], np.float32))
    for name, array in result.outputs.items():
        print(f"{result.model_name} {result.model_version}: {name} {list(array.shape)} = {array.ravel()}")
