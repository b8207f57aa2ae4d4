"""Says when somebody speaks in a .wav file, every 32 ms: python vad.py SOCKET MODEL speech.wav

The model is Silero VAD, whose file silero_vad_16k_op15.onnx is in the Python package silero-vad:

    edge-agent serve silero_vad_16k_op15.onnx --name vad --state state=stateN

It takes 512 samples at 16 kHz after the last 64 of those before them. Its state stays on the agent, so that
each answer knows what was heard before.
"""

import sys
import wave

import numpy as np

from edge_agent.client import Client

RATE, CHUNK, CONTEXT = 16_000, 512, 64

socket, model, path = sys.argv[1:]
with wave.open(path) as sound:
    if (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) != (RATE, 1, 2):
        sys.exit(f"{path} is not 16 kHz, mono, 16 bits; convert it: sox {path} -r 16000 -c 1 -b 16 speech.wav")
    samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2").astype(np.float32) / 2**15

padded = np.concatenate([np.zeros(CONTEXT, np.float32), samples])
with Client(socket) as client:
    stream = client.sequence(model)
    for start in range(0, len(samples) - CHUNK + 1, CHUNK):
        frame = padded[None, start : start + CONTEXT + CHUNK]
        is_last = start + 2 * CHUNK > len(samples)
        heard = stream.infer({"input": frame, "sr": np.array(RATE)}, end=is_last).outputs["output"].item()
        print(f"{start / RATE:8.3f} s  {heard:.2f}  {'#' * round(20 * heard)}")
