"""Prediction ids: what goes in comes out, and nothing else is taken."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.documents.errors import RequestError
from edge_agent.policy.prediction_id import Prediction, decode, encode

SECRET = bytes(range(32))
PREDICTION = Prediction(
    model="magika",
    experiment="float-or-int8",
    epoch=3,
    arm="20261122_103045",
    bucket=63,
    time_s=1_795_383_045,
    nonce=b"12345678",
)

MODELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
ARMS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,63}", fullmatch=True)
PREDICTIONS = st.builds(
    Prediction,
    model=MODELS,
    experiment=MODELS,
    epoch=st.integers(0, 2**31),
    arm=ARMS,
    bucket=st.integers(0, 63),
    time_s=st.integers(0, 2**32 - 1),
    nonce=st.binary(min_size=8, max_size=8),
)


@given(PREDICTIONS)
def test_decoding_gives_what_was_encoded(prediction: Prediction) -> None:
    text = encode(SECRET, prediction)
    assert decode(SECRET, text) == prediction
    assert len(text) <= 294


def test_an_id_of_usual_names_is_short_and_safe_in_urls() -> None:
    text = encode(SECRET, PREDICTION)
    assert len(text) < 100
    assert text.replace("-", "").replace("_", "").isalnum()


def test_an_experiment_named_as_the_model_takes_no_room() -> None:
    plain = Prediction("magika", "magika", 0, "1", 0, 0, bytes(8))
    assert decode(SECRET, encode(SECRET, plain)).experiment == "magika"
    assert len(encode(SECRET, plain)) < 50


@given(PREDICTIONS, st.data())
def test_an_id_with_any_bit_changed_is_refused(prediction: Prediction, data: st.DataObject) -> None:
    text = encode(SECRET, prediction)
    whole = bytearray(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    whole[bit // 8] ^= 1 << bit % 8
    with pytest.raises(RequestError, match="not one that this device gave out"):
        decode(SECRET, base64.urlsafe_b64encode(whole).rstrip(b"=").decode())


def test_an_id_of_another_device_is_refused() -> None:
    with pytest.raises(RequestError):
        decode(bytes(32), encode(SECRET, PREDICTION))


def test_another_spelling_of_the_same_bytes_is_refused() -> None:
    text = next(
        text
        for arm in ("a", "ab", "abc")
        if len(text := encode(SECRET, Prediction("m", "m", 0, arm, 0, 0, bytes(8)))) % 4
    )
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    twin = text[:-1] + alphabet[alphabet.index(text[-1]) + 1]
    assert base64.urlsafe_b64decode(twin + "===") == base64.urlsafe_b64decode(text + "===")
    with pytest.raises(RequestError):
        decode(SECRET, twin)


@given(st.text(max_size=400) | st.text("AbZ09_-", min_size=30, max_size=310))
def test_any_text_is_refused_with_one_error(text: str) -> None:
    with pytest.raises(RequestError):
        decode(SECRET, text)
