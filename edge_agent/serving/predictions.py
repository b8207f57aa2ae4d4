"""The prediction ids that answers carry."""

import secrets
import time
from typing import Final

from edge_agent.documents.plan import ModelPlan
from edge_agent.policy.prediction_id import NONCE_BYTES, Prediction, encode

_LAST_SECOND: Final = 2**32 - 1
_NONCES: Final = 512


class PredictionIds:
    """Gives out ids, authenticated with the device's secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._nonces = b""
        self._used = 0

    def issue(self, policy: ModelPlan, arm: str, bucket: int) -> str:
        """Return the id of an answer that is given now, by this arm to a unit of this bucket."""
        now_s = min(max(int(time.time()), 0), _LAST_SECOND)
        experiment = policy.experiment or policy.model
        nonce = self._nonce()
        return encode(
            self._secret, Prediction(policy.model, experiment, policy.epoch, arm, bucket, now_s, nonce)
        )

    def _nonce(self) -> bytes:
        """Return bytes of the system's generator, which is asked for many at once: a call takes longer."""
        if self._used == len(self._nonces):
            self._nonces, self._used = secrets.token_bytes(NONCE_BYTES * _NONCES), 0
        self._used += NONCE_BYTES
        return self._nonces[self._used - NONCE_BYTES : self._used]
