"""Machine-readable symbols with random content, written by zxing-cpp as module matrices."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import zxingcpp
from numpy.typing import NDArray

LABELS = ("qr", "datamatrix", "aztec", "pdf417", "linear")
"""The classes in the order of the network's outputs."""

LABEL_SHARES = (0.22, 0.18, 0.15, 0.18, 0.27)
"""How often each class is drawn: linear covers the most symbologies, so it gets the largest share."""

_Format = zxingcpp.BarcodeFormat
_Content = Callable[[np.random.Generator], str]


@dataclass(frozen=True)
class Symbol:
    """One symbol without its quiet zone.

    `modules`: uint8 [rows, columns], 1 = printed. `guards`: columns whose bars reach down into the text (EAN,
    UPC).
    """

    label: str
    text: str
    modules: NDArray[np.uint8]
    guards: tuple[int, ...] = ()

    @property
    def is_linear(self) -> bool:
        """Whether the height of the bars is free."""
        return self.label == "linear"


def _characters(alphabet: str, shortest: int, longest: int) -> _Content:
    def draw(rng: np.random.Generator) -> str:
        # Lengths are drawn log-uniformly: short contents are the common ones.
        length = round(float(np.exp(rng.uniform(np.log(shortest), np.log(longest)))))
        return "".join(rng.choice(list(alphabet), length))

    return draw


def _digits(count: int) -> _Content:
    return _characters(string.digits, count, count)


def _address(rng: np.random.Generator) -> str:
    name = _characters(string.ascii_lowercase, 4, 14)(rng)
    path = _characters(string.ascii_letters + string.digits + "/", 1, 60)(rng)
    return f"https://{name}.{rng.choice(['com', 'org', 'net', 'io', 'de', 'co.jp'])}/{path}"


def _text(longest: int) -> _Content:
    letters = _characters(string.ascii_letters + string.digits + " .,:-/", 2, longest)
    numbers = _characters(string.digits, 3, max(4, longest // 2))

    def draw(rng: np.random.Generator) -> str:
        return (letters, numbers, _address)[rng.choice(3, p=(0.45, 0.2, 0.35))](rng)

    return draw


def _codabar(rng: np.random.Generator) -> str:
    first, last = rng.choice(list("ABCD"), 2)
    return f"{first}{_characters(string.digits + '-$', 4, 14)(rng)}{last}"


def _pairs(rng: np.random.Generator) -> str:
    return _digits(2 * int(rng.integers(2, 9)))(rng)


def _upce(rng: np.random.Generator) -> str:
    return "0" + _digits(6)(rng)


_UPPER = string.ascii_uppercase + string.digits
_EAN13_GUARDS = (0, 2, 46, 48, 92, 94)

# Per class: (symbology, content, weight, guard columns).
_SYMBOLOGIES: dict[str, list[tuple[zxingcpp.BarcodeFormat, _Content, float, tuple[int, ...]]]] = {
    "qr": [
        (_Format.QRCode, _text(160), 0.93, ()),
        (_Format.MicroQRCode, _characters(string.digits, 3, 12), 0.05, ()),
        (_Format.RMQRCode, _characters(_UPPER, 4, 30), 0.02, ()),
    ],
    "datamatrix": [(_Format.DataMatrix, _text(90), 1.0, ())],
    "aztec": [(_Format.Aztec, _text(150), 0.97, ()), (_Format.AztecRune, _digits(2), 0.03, ())],
    "pdf417": [
        (_Format.PDF417, _text(260), 0.84, ()),
        (_Format.CompactPDF417, _text(100), 0.1, ()),
        (_Format.MicroPDF417, _text(30), 0.06, ()),
    ],
    "linear": [
        (_Format.EAN13, _digits(12), 0.28, _EAN13_GUARDS),
        (_Format.EAN8, _digits(7), 0.08, (0, 2, 32, 34, 64, 66)),
        (_Format.UPCA, _digits(11), 0.12, _EAN13_GUARDS),
        (_Format.UPCE, _upce, 0.04, (0, 2, 46, 48, 50)),
        (_Format.Code128, _characters(string.ascii_letters + string.digits + "-/ ", 3, 24), 0.18, ()),
        (_Format.Code39, _characters(_UPPER + "-. ", 3, 14), 0.1, ()),
        (_Format.Code93, _characters(_UPPER, 3, 16), 0.04, ()),
        (_Format.ITF, _pairs, 0.07, ()),
        (_Format.Codabar, _codabar, 0.04, ()),
        (_Format.DataBarOmni, _digits(13), 0.03, ()),
        (_Format.DataBarLtd, _digits(13), 0.02, ()),
    ],
}


def random_label(rng: np.random.Generator) -> str:
    """Draw a class by `LABEL_SHARES`."""
    return LABELS[int(rng.choice(len(LABELS), p=LABEL_SHARES))]


def _options(label: str, rng: np.random.Generator) -> str:
    if label == "qr" and rng.random() < 0.4:
        return f"ecLevel={rng.choice(list('LMQH'))}"
    if label == "pdf417" and rng.random() < 0.7:
        return f"columns={rng.integers(1, 12)}"
    if label == "datamatrix" and rng.random() < 0.75:
        return "forceSquare"
    return ""


def _matrix(barcode: zxingcpp.Barcode) -> NDArray[np.uint8]:
    image = zxingcpp.write_barcode_to_image(barcode, scale=1, add_hrt=False, add_quiet_zones=False)
    return (np.asarray(image) < 128).astype(np.uint8)


def random_symbol(rng: np.random.Generator, label: str, most_modules: float = 1e9) -> Symbol:
    """Draw a symbology of the class and a content.

    A symbol wider or higher than `most_modules` is drawn again (up to 12 times): it could not be resolved.
    """
    choices = _SYMBOLOGIES[label]
    weights = np.array([choice[2] for choice in choices])
    smallest: Symbol | None = None
    for _ in range(12):
        form, content, _, guards = choices[int(rng.choice(len(choices), p=weights / weights.sum()))]
        try:
            barcode = zxingcpp.create_barcode(content(rng), form, options=_options(label, rng))
        except (ValueError, RuntimeError):
            continue  # the content does not fit this symbology's size: draw another
        modules = _matrix(barcode)
        symbol = Symbol(label, barcode.text, modules[:1] if label == "linear" else modules, guards)
        if max(symbol.modules.shape) <= most_modules:
            return symbol
        if smallest is None or max(symbol.modules.shape) < max(smallest.modules.shape):
            smallest = symbol
    if smallest is None:
        return random_symbol(rng, label, most_modules)
    return smallest


def maxicode(rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw a MaxiCode, a real code outside the five classes: uint8 [133, 149], 1 = printed."""
    return _matrix(zxingcpp.create_barcode(_characters(_UPPER, 2, 40)(rng), _Format.MaxiCode))
