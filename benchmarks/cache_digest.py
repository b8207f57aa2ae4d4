"""What the digest of a cache key costs, for several hash functions and sizes of input.

    python -m benchmarks.cache_digest [--json]

Each digest covers a key or seed, 60 bytes of description and one input. xxhash and blake3 are measured where
they are installed; the agent needs neither. The choice is explained in docs/decisions/0005-cache-digest.md.
"""

import argparse
import hashlib
import importlib
import json
import sys
import timeit
from collections.abc import Callable
from typing import Any

SIZES_BYTES = (64, 1024, 8 * 1024, 64 * 1024, 1_200_000)
KEY = bytes(range(64))
DESCRIPTION = bytes(60)
REPEATS = 5
TIME_PER_REPEAT_S = 0.05

Digest = Callable[[bytes], bytes]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print rows of name, value, unit, target, met")
    options = parser.parse_args()
    digests = {name: digest for name, digest in candidates().items() if digest is not None}
    measured = {
        (name, size): digest_us(digest, bytes(size)) for size in SIZES_BYTES for name, digest in digests.items()
    }
    if options.json:
        rows = [
            {
                "name": f"cache key: {name} of {size} B",
                "value": round(value, 2),
                "unit": "µs",
                "target": None,
                "met": None,
            }
            for (name, size), value in measured.items()
        ]
        print(json.dumps(rows, indent=1))
        return 0
    print(f"{'µs a digest':<24}" + "".join(f"{size:>12} B" for size in SIZES_BYTES))
    for name in digests:
        print(f"{name:<24}" + "".join(f"{measured[name, size]:>14.2f}" for size in SIZES_BYTES))
    return 0


def candidates() -> dict[str, Digest | None]:
    """Return each digest, as the cache would use it."""
    sha256 = hashlib.sha256(KEY)
    blake2b = hashlib.blake2b(key=KEY, digest_size=16)
    blake2s = hashlib.blake2s(key=KEY[:32], digest_size=16)

    def copied(state: Any) -> Digest:
        def digest(content: bytes) -> bytes:
            hash_ = state.copy()
            hash_.update(DESCRIPTION)
            hash_.update(content)
            return hash_.digest()  # type: ignore[no-any-return]

        return digest

    return {
        "sha256, key as prefix": copied(sha256),
        "blake2b-128, keyed": copied(blake2b),
        "blake2s-128, keyed": copied(blake2s),
        "blake3, keyed": optional("blake3", lambda module: copied(module.blake3(key=KEY[:32]))),
        "xxh3-128, secret seed": optional("xxhash", lambda module: copied(module.xxh3_128(seed=2**63 + 1))),
    }


def optional(name: str, make: Callable[[Any], Digest]) -> Digest | None:
    try:
        return make(importlib.import_module(name))
    except ImportError:
        return None


def digest_us(digest: Digest, content: bytes) -> float:
    """Return the least mean of several repeats: what else runs on the machine only adds."""
    timer = timeit.Timer(lambda: digest(content))
    once_s = timer.timeit(5) / 5
    number = max(1, int(TIME_PER_REPEAT_S / once_s))
    return min(timer.repeat(REPEATS, number)) / number * 1e6


if __name__ == "__main__":
    sys.exit(main())
