import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from converters.processing import spectrogram


@given(st.integers(2, 600))
def test_rows_are_a_fourier_transform_of_the_windowed_frame(frame: int) -> None:
    sound = np.random.default_rng(frame).uniform(-1, 1, frame)

    rows = spectrogram.fourier_rows(frame)

    real, imaginary = np.split(rows @ sound, 2)
    expected = np.fft.rfft(sound * np.hanning(frame + 1)[:-1])
    np.testing.assert_allclose(real + 1j * imaginary, expected, atol=1e-4)


@given(st.integers(1, 40), st.floats(0, 1000), st.floats(2000, 8000))
def test_bands_are_triangles_that_hand_over_to_each_other(bands: int, low_hz: float, high_hz: float) -> None:
    rows = spectrogram.mel_rows(4001, 16000, bands, low_hz, high_hz)

    hertz = np.linspace(0, 8000, 4001)
    peaks = hertz[rows.argmax(axis=1)]
    assert rows.shape == (bands, 4001)
    assert rows.min() >= 0
    assert rows.max() <= 1
    assert (np.diff(peaks) > 0).all()
    # The corners are known to the last bits only.
    assert (rows[:, (hertz < low_hz) | (hertz > high_hz)] < 1e-9).all()
    # Between the first peak and the last, two neighbours' weights make 1.
    inner = (hertz >= peaks[0] + 2) & (hertz <= peaks[-1] - 2)
    np.testing.assert_allclose(rows.sum(axis=0)[inner], 1, atol=1e-4)
