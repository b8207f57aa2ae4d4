"""Pictures to run models on: crops of photographs that come with packages, and rendered text."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.converters.data import Array
from benchmarks.converters.fetch import cached

FACES = {"astronaut.png": (225, 115, 75), "grace_hopper.jpg": (255, 175, 115)}
"""Centre (x, y) and half the width of the face, in pixels, of the photographs that have one."""
FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSans-Oblique.ttf",
)


@cache
def photographs() -> dict[str, Array]:
    """Return all photographs, uint8 [height, width, 3]."""
    import matplotlib
    import sklearn
    from PIL import Image

    folder = Path(sklearn.__file__).parent / "datasets/images"
    paths = [cached(name) for name in ("astronaut.png", "camera.png", "chelsea.png", "coffee.png")]
    paths += [folder / "china.jpg", folder / "flower.jpg"]
    paths += [Path(matplotlib.get_data_path()) / "sample_data/grace_hopper.jpg"]
    return {path.name: np.asarray(Image.open(path).convert("RGB")) for path in paths}


def crops(random: np.random.Generator, count: int, size: int, *, faces: bool = False) -> Array:
    """Return uint8 [count, size, size, 3]: parts of photographs, turned by up to 25°, lighter or darker.

    With `faces` each shows one of the two faces, larger or smaller and not quite in the middle; else half show
    a person and the others any part of any photograph.
    """
    names = sorted(photographs())
    found = []
    for index in range(count):
        with_face = faces or index % 2 == 0
        name = str(random.choice(sorted(FACES) if with_face else names))
        found.append(_crop(random, name, size, with_face=with_face, tight=faces))
    return np.stack(found)


def _crop(random: np.random.Generator, name: str, size: int, *, with_face: bool, tight: bool) -> Array:
    from PIL import Image

    picture = photographs()[name]
    height, width = picture.shape[:2]
    if with_face:
        x, y, half = FACES[name]
        radius = half * random.uniform(1.1, 1.6 if tight else 3.0)
        centre = np.array([x, y]) + random.uniform(-0.15, 0.15, 2) * half
    else:
        radius = random.uniform(0.2, 0.5) * min(height, width)
        centre = random.uniform([radius, radius], [width - radius, height - radius])
    angle = np.deg2rad(random.uniform(-25, 25))
    step = 2 * radius / size
    cos, sin = step * np.cos(angle), step * np.sin(angle)
    left, top = centre - size / 2 * np.array([cos - sin, sin + cos])
    turned = Image.fromarray(picture).transform(
        (size, size), Image.Transform.AFFINE, (cos, -sin, left, sin, cos, top), Image.Resampling.BILINEAR
    )
    return np.clip(np.asarray(turned) * random.uniform(0.6, 1.25), 0, 255).astype(np.uint8)


@cache
def words() -> tuple[str, ...]:
    """Return the words of this project's README that a line can be made of."""
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    found = {word.strip(".,:;()`*'\"") for word in text.split()}
    return tuple(sorted(word for word in found if 2 <= len(word) <= 10 and word.isascii() and word.isalnum()))


def lines(random: np.random.Generator, count: int, height: int, width: int) -> list[tuple[str, Array]]:
    """Return rendered lines of text: the text and uint8 [height, at most width, 3]."""
    return [_line(random, height, width) for _ in range(count)]


def padded(image: Array, width: int) -> Array:
    """Return an image with middle gray to its right, which the models' own preparation calls 0."""
    return np.pad(image, ((0, 0), (0, width - image.shape[1]), (0, 0)), constant_values=128)


def _line(random: np.random.Generator, height: int, width: int) -> tuple[str, Array]:
    text = " ".join(random.choice(words(), int(random.integers(1, 4))))
    image = _rendered(random, text, height)
    while image.width > width:
        text = " ".join(text.split()[:-1]) or str(random.choice(words()))
        image = _rendered(random, text, height)
    return text, np.asarray(image)


def _rendered(random: np.random.Generator, text: str, height: int) -> "Image.Image":  # type: ignore[name-defined] # noqa: F821
    from PIL import Image, ImageDraw, ImageFilter

    font = _font(str(random.choice(FONTS)), int(height * random.uniform(0.5, 0.75)))
    left, top, right, bottom = font.getbbox(text)
    paper, ink = _colours(random)
    margin = int(random.integers(4, 10))
    size = (int(right - left) + 2 * margin, height)
    image = Image.new("RGB", size, paper)
    ImageDraw.Draw(image).text((margin - left, (height - (bottom - top)) / 2 - top), text, ink, font)
    if random.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(float(random.uniform(0.3, 1.0))))
    noisy = np.asarray(image) + random.normal(0, random.uniform(0, 12), (height, size[0], 1))
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def pages(random: np.random.Generator, count: int, size: int) -> Array:
    """Return uint8 [count, size, size, 3]: lines of text on paper and on photographs."""
    return np.stack([_page(random, size, on_photograph=index % 2 == 1) for index in range(count)])


def _page(random: np.random.Generator, size: int, *, on_photograph: bool) -> Array:
    from PIL import Image, ImageDraw

    paper, ink = _colours(random)
    image = Image.new("RGB", (size, size), paper)
    if on_photograph:
        names: Sequence[str] = sorted(photographs())
        image = Image.fromarray(_crop(random, str(random.choice(names)), size, with_face=False, tight=False))
    draw = ImageDraw.Draw(image)
    y = int(random.integers(10, 40))
    while y < size - 50:
        height = int(random.integers(14, 40))
        text = " ".join(random.choice(words(), int(random.integers(1, 5))))
        place = (int(random.integers(5, size // 2)), y)
        font = _font(str(random.choice(FONTS)), height)
        if on_photograph:
            draw.rectangle(draw.textbbox(place, text, font), fill=paper)
        draw.text(place, text, ink, font)
        y += int(height * random.uniform(1.5, 3))
    return np.asarray(image)


def _colours(random: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    light, dark = random.integers(170, 256, 3), random.integers(0, 90, 3)
    pair = (tuple(map(int, light)), tuple(map(int, dark)))
    return pair if random.random() < 0.8 else (pair[1], pair[0])


def _font(name: str, height: int) -> "ImageFont.FreeTypeFont":  # type: ignore[name-defined] # noqa: F821
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf" / name), height)
