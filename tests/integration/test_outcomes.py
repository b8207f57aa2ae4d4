"""Outcomes over HTTP to a real serving process and its database."""

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.client import AsyncClient
from edge_agent.documents.errors import (
    DuplicateError,
    PayloadTooLargeError,
    RequestError,
    TooLateError,
    UnavailableError,
)
from support.agent import wait_until
from support.outcomes import OutcomeServing, limit_file_size, one, prediction_id


@pytest.fixture
def serving(tmp_path: Path) -> Iterator[OutcomeServing]:
    with OutcomeServing(tmp_path, window_s=3600.0) as process:
        yield process


def test_an_outcome_is_in_the_sums_once_it_is_acknowledged(serving: OutcomeServing) -> None:
    assert serving.tell(prediction_id(1), correct=True, revenue=2.5) == (
        202,
        {"accepted": 1, "duplicates": 0, "refused": []},
    )
    assert serving.totals() == {"correct": (1, 1.0), "revenue": (1, 2.5)}
    assert serving.tell(prediction_id(2, arm="fallback"), correct=0)[0] == 202
    assert serving.tell(prediction_id(3, arm="direct"), correct=-1e-3)[0] == 202
    assert serving.totals()["correct"] == (3, 1.0 + 0.0 - 1e-3)


def forged(text: str) -> str:
    """Return the id with another letter in what authenticates it."""
    return f"{text[:-3]}{'B' if text[-3] == 'A' else 'A'}{text[-2:]}"


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        (prediction_id(1, age_s=7200), 410, "too old"),
        (prediction_id(1, age_s=-200), 202, ""),
        (prediction_id(1, age_s=-2000), 400, "in the future"),
        (prediction_id(1, secret=b"of another device"), 400, "not one that this device gave out"),
        (forged(prediction_id(1)), 400, "not one that this device gave out"),
        (prediction_id(1, model="other"), 400, "of model 'other', not of 'm'"),
        ("", 400, "not one that this device gave out"),
        ("\u00fc" * 60, 400, "not one that this device gave out"),
        ("A" * 100_000, 400, "not one that this device gave out"),
    ],
)
def test_only_timely_predictions_of_this_device_have_outcomes(
    serving: OutcomeServing, text: str, status: int, says: str
) -> None:
    answered, answer = serving.tell(text, correct=1)
    assert (answered, says in answer.get("error", "")) == (status, True)
    assert serving.totals() == ({"correct": (1, 1.0)} if status == 202 else {})


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "1 to 32 values"),
        ({f"m{number}": 1 for number in range(33)}, "1 to 32 values"),
        ({"correct": "yes"}, "value of 'correct' must be a number"),
        ({"correct": None}, "value of 'correct' must be a number"),
        ({"correct": [1]}, "value of 'correct' must be a number"),
        ({"correct": 1e101}, "value of 'correct' must be a number"),
        ({"correct": -(10**400)}, "must be a number"),
        ({"": 1}, "cannot name a metric"),
        ({"a b": 1}, "cannot name a metric"),
        ({"1st": 1}, "cannot name a metric"),
        ({"m" * 65: 1}, "cannot name a metric"),
    ],
)
def test_a_value_is_a_finite_number_under_a_name(
    serving: OutcomeServing, values: dict[str, object], says: str
) -> None:
    body = str({"outcomes": [{"prediction_id": prediction_id(), "values": values}]})
    content = body.replace("'", '"').replace("None", "null").encode()
    status, answer = serving.post(content)
    assert (status, says in answer["error"]) == (400, True), answer
    assert serving.totals() == {}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'{"outcomes": []}', 400),
        (b'{"outcomes": [7]}', 400),
        (b'{"outcomes": [{"values": {"x": 1}}]}', 400),
        (b'{"outcomes": [{"prediction_id": 7, "values": {"x": 1}}]}', 400),
        (b'{"outcomes": [{"prediction_id": "x", "values": {"x": NaN}}]}', 400),
        (b'{"outcomes": [{"prediction_id": "x", "values": {"x": Infinity}}]}', 400),
        (b'{"outcomes": [{"prediction_id": "x", "values": {"x": 1e999}}]}', 400),
        (b'{"outcomes": ' + b"[" * 100_000, 400),
        (b"\xff\xfe{}", 400),
        (b'{"outcomes": [' + b"{}," * 10_000 + b"{}]}", 413),
    ],
)
def test_another_body_is_refused_with_a_sentence(serving: OutcomeServing, body: bytes, status: int) -> None:
    answered, answer = serving.post(body)
    assert (answered, answer["error"][-1]) == (status, ".")


def test_only_post_to_the_model_takes_outcomes(serving: OutcomeServing) -> None:
    assert serving.post({}, "/v2/models/m/versions/1/outcomes")[0] == 404
    assert serving.post({}, "/v2/models/m/outcomes/x")[0] == 404


def test_each_outcome_of_a_list_is_told_by_itself(serving: OutcomeServing) -> None:
    first, second = prediction_id(1), prediction_id(2)
    given = [
        (first, {"x": 1}),
        ("forged" * 10, {"x": 1}),
        (first, {"x": 1}),
        (second, {"x": 2}),
        (prediction_id(3, age_s=7200), {"x": 1}),
    ]
    content = {"outcomes": [{"prediction_id": text, "values": values} for text, values in given]}
    status, answer = serving.post(content)
    assert (status, answer["accepted"], answer["duplicates"]) == (202, 2, 1)
    assert [(told["index"], told["status"]) for told in answer["refused"]] == [(1, 400), (2, 409), (4, 410)]
    status, answer = serving.post(content)
    assert (status, answer["accepted"], answer["duplicates"]) == (400, 0, 3)
    assert answer["error"].startswith("None of the 5 outcomes was taken. The first: An outcome of this")
    assert serving.totals() == {"x": (2, 3.0)}


def test_clients_tell_outcomes(serving: OutcomeServing) -> None:
    with serving.client() as client:
        client.outcome("m", prediction_id(1), correct=1, model=2.0)
        with pytest.raises(DuplicateError, match="taken already"):
            client.outcome("m", prediction_id(1), correct=1)
        with pytest.raises(TooLateError, match="too old"):
            client.outcome("m", prediction_id(2, age_s=7200), correct=1)
        with pytest.raises(RequestError, match="not one that this device gave out"):
            client.outcome("m", "nothing", correct=1)
        with pytest.raises(RequestError, match="must be a number"):
            client.outcome("m", prediction_id(3), correct=float("nan"))
        with pytest.raises(RequestError, match="is no number"):
            client.outcome("m", prediction_id(3), correct="yes")  # type: ignore[arg-type]
        with pytest.raises(PayloadTooLargeError):
            client.outcomes("m", [("x", {"x": 1.0})] * 10_001)
        told = client.outcomes("m", [(prediction_id(number), {"correct": 0.0}) for number in (1, 4)])
        assert (told.accepted, told.duplicates, told.refused[0].status) == (1, 1, 409)
        again = client.outcomes("m", [(prediction_id(number), {"correct": 0.0}) for number in (1, 4)])
        assert (again.accepted, again.duplicates, len(again.refused)) == (0, 2, 2)
    assert serving.totals() == {"correct": (2, 1.0), "model": (1, 2.0)}


def test_the_asynchronous_client_tells_outcomes(serving: OutcomeServing) -> None:
    async def tell() -> None:
        async with AsyncClient(serving.path) as client:
            await client.outcome("m", prediction_id(1), correct=1)
            with pytest.raises(DuplicateError):
                await client.outcome("m", prediction_id(1), correct=1)
            told = await client.outcomes(
                "m", ((prediction_id(number), {"x": 1.0}) for number in range(5, 3005))
            )
            assert (told.accepted, told.refused) == (3000, ())

    asyncio.run(tell())
    assert serving.totals() == {"correct": (1, 1.0), "x": (3000, 3000.0)}


def test_of_concurrent_duplicates_one_is_taken(serving: OutcomeServing) -> None:
    texts = [prediction_id(number) for number in range(20)]
    statuses: Counter[int] = Counter()
    lock = threading.Lock()

    def tell() -> None:
        with serving.client() as client:
            for text in texts:
                try:
                    client.outcome("m", text, correct=1)
                except DuplicateError:
                    continue
                with lock:
                    statuses[202] += 1

    threads = [threading.Thread(target=tell) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses[202] == 20
    assert serving.totals() == {"correct": (20, 20.0)}


def test_a_full_disk_is_said_and_recovered_from(serving: OutcomeServing) -> None:
    assert serving.tell(prediction_id(1), x=1)[0] == 202
    limit_file_size(serving.process, 1024)
    many = [{"prediction_id": prediction_id(number), "values": {"x": 1}} for number in range(2, 300)]
    status, answer = serving.post({"outcomes": many})
    assert (status, "cannot be stored" in answer["error"]) == (503, True), answer
    with serving.client() as client, pytest.raises(UnavailableError):
        client.outcome("m", prediction_id(300), x=1)
    limit_file_size(serving.process, -1)
    status, answer = serving.post({"outcomes": many})
    assert status in (202, 409)
    assert answer["accepted"] + answer["duplicates"] == len(many)
    assert serving.totals() == {"x": (299, 299.0)}


def test_a_damaged_database_is_set_aside_and_reported(tmp_path: Path) -> None:
    database = tmp_path / "outcomes.db"
    database.write_bytes(b"no database" * 1000)
    with OutcomeServing(tmp_path) as serving:
        assert serving.tell(prediction_id(1), x=1)[0] == 202
        assert "was damaged" in serving.damage_report()
        assert serving.totals() == {"x": (1, 1.0)}
    assert database.with_name("outcomes.db.damaged").read_bytes().startswith(b"no database")


def test_many_outcomes_do_not_wait_for_the_interval(tmp_path: Path) -> None:
    with OutcomeServing(tmp_path, interval_s=60.0) as serving:
        assert serving.tell(prediction_id(1), x=1)[0] == 202
        connection = serving.begin(one(prediction_id(2), x=1))
        many = [{"prediction_id": prediction_id(number), "values": {"x": 1}} for number in range(3, 103)]
        assert serving.post({"outcomes": many})[0] == 202
        assert serving.end(connection)[0] == 202
        assert serving.totals() == {"x": (102, 102.0)}


def test_outcomes_that_wait_are_answered_before_the_process_ends(tmp_path: Path) -> None:
    with OutcomeServing(tmp_path, interval_s=60.0) as serving:
        assert serving.tell(prediction_id(1), x=1)[0] == 202
        connection = serving.begin(one(prediction_id(2), x=1))
        with serving.client() as client:
            # Answered later than that connection was accepted.
            assert client.ready()
        serving.drain()
        assert serving.end(connection)[0] == 202
        wait_until(lambda: serving.process.poll() is not None, "the process has ended")
        assert serving.totals() == {"x": (2, 2.0)}
