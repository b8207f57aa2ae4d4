"""Requests that are remembered as they came: the same bytes ask the same again, and need not be read for that.

What is known of such a request is its question: whom it asks, for which unit, and by which digest the cache
knows it for each model file. The arm is never remembered but drawn anew for each request. Of the answers the
bytes are kept, before and after the prediction id, which is of one length for an arm; they are used for as long
as the cache holds the very result that they were made from. All of it counts as the cache's memory. For the
event loop's thread.
"""

from collections import OrderedDict
from typing import Final

import msgspec

from edge_agent.serving.cache import Remembered, ResultCache
from edge_agent.serving.http_messages import Response
from edge_agent.serving.router import Choice, Table

QUESTION_BYTES: Final = 1200
"""What a question takes beside its bytes: key, dictionaries, bookkeeping; measured with tracemalloc."""
ANSWER_BYTES: Final = 520

_SHARE: Final = 8
"""Questions and answers take an eighth of the cache's memory at most."""


class Hit(msgspec.Struct, frozen=True, gc=False, eq=False):
    """A question that the cache has answered, as `choice`; `key` is what the cache knows it by."""

    table: Table
    model: str
    version: str | None
    unit: str | None
    choice: Choice
    key: bytes
    remembered: Remembered


class Written(msgspec.Struct, frozen=True, gc=False, eq=False):
    """An answer around its prediction id, and the result that it was made from."""

    remembered: Remembered
    response: Response
    """Its status, content type, headers and head; without a body."""
    before: bytes
    after: bytes

    def answer(self, prediction_id: str) -> Response:
        """Return the answer with this prediction id."""
        known = self.response
        body = (self.before, prediction_id.encode(), self.after)
        return Response(known.status, body, known.content_type, known.headers, known.head)

    @property
    def size_bytes(self) -> int:
        """What it takes in memory."""
        return ANSWER_BYTES + len(self.response.head) + len(self.before) + len(self.after)


class Question(msgspec.Struct, eq=False):
    """What a request with known bytes asks, while this table is served."""

    table: Table
    model: str
    version: str | None
    unit: str | None
    keys: dict[str, bytes]
    """By the digest of the model file, what the cache knows the question by."""
    answers: dict[tuple[str, str], Written]
    """By version and arm."""
    size_bytes: int


class Memo:
    """The known requests, bounded in bytes; the least recently used go first."""

    def __init__(self, cache: ResultCache) -> None:
        self._cache = cache
        self._questions: OrderedDict[bytes, Question] = OrderedDict()
        self._limit_bytes = cache.max_bytes // _SHARE
        self._bytes = 0

    def find(self, raw: bytes, table: Table) -> Question | None:
        """Return what a request asks, if its bytes are known and it was asked of this very table."""
        question = self._questions.get(raw)
        if question is None:
            return None
        if question.table is not table:
            self.clear()
            return None
        self._questions.move_to_end(raw)
        return question

    def learn(self, raw: bytes, hit: Hit, written: Written) -> None:
        """Remember a request that the cache has answered, and the answer; unless they are too large."""
        question = self.find(raw, hit.table)
        plan = hit.choice.loaded.plan
        arm = (plan.version, hit.choice.arm)
        if question is None:
            question = Question(hit.table, hit.model, hit.version, hit.unit, {}, {}, 0)
            size_bytes = QUESTION_BYTES + len(raw) + written.size_bytes
        else:
            old = question.answers.get(arm)
            size_bytes = written.size_bytes - (0 if old is None else old.size_bytes)
        if not self._make_room(size_bytes, raw):
            return
        question.keys[plan.sha256] = hit.key
        question.answers[arm] = written
        question.size_bytes += size_bytes
        self._questions[raw] = question

    def clear(self) -> None:
        """Forget everything."""
        self._questions.clear()
        self._cache.release(self._bytes)
        self._bytes = 0

    def _make_room(self, size_bytes: int, asked: bytes) -> bool:
        """Reserve memory for the newest question, which stays; say whether there was enough."""
        while self._questions and self._bytes + size_bytes > self._limit_bytes:
            oldest = next(iter(self._questions))
            if oldest == asked:
                return False
            self._forget(oldest)
        if self._bytes + size_bytes > self._limit_bytes or not self._cache.reserve(size_bytes):
            return False
        self._bytes += size_bytes
        return True

    def _forget(self, raw: bytes) -> None:
        size_bytes = self._questions.pop(raw).size_bytes
        self._bytes -= size_bytes
        self._cache.release(size_bytes)
