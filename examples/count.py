"""How many of what is in each picture: ``python examples/count.py FOLDER`` (the samples without one)."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import detserve

CHECKOUT = Path(__file__).parents[1]


def main() -> None:
    """Serve the committed detectors, ask one of them for all pictures, print a line for each."""
    pictures = sorted(Path(sys.argv[1] if len(sys.argv) > 1 else CHECKOUT / "zoo/samples").glob("*.jpg"))
    committed = detserve.Detector("codes_yolo", CHECKOUT / "model_repository")
    with detserve.serve(committed) as client:
        for picture, found in zip(pictures, client.detect(pictures), strict=True):
            counts = Counter(found.above(0.4).labels)
            print(f"{picture.name}: {', '.join(f'{n} {label}' for label, n in counts.items()) or 'nothing'}")


if __name__ == "__main__":
    main()
