"""The client for local apps: inference over the agent's Unix socket, or over TCP.

    from edge_agent.client import Client

    with Client() as client:
        result = client.infer("magika", tokens)
        scores = result.outputs["target_label"]

Tensors are numpy arrays and travel as binary data, large ones in shared memory; BYTES are object arrays of
bytes. Sockets and llhttp, as a call then takes 31 µs, where http.client takes 85 and httpx 328.
"""

from edge_agent.client.aio import AsyncClient
from edge_agent.client.calls import InferResult, ModelEntry, ModelMetadata, OutcomesResult, Refusal
from edge_agent.client.sequences import AsyncInferSequence, InferSequence
from edge_agent.client.sync import Client
from edge_agent.client.tasks import AsyncTask, Task

__all__ = [
    "AsyncClient",
    "AsyncInferSequence",
    "AsyncTask",
    "Client",
    "InferResult",
    "InferSequence",
    "ModelEntry",
    "ModelMetadata",
    "OutcomesResult",
    "Refusal",
    "Task",
]
