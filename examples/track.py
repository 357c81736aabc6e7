"""How long each object is in sight: ``python examples/track.py CLIP.mp4``."""

from __future__ import annotations

import sys
from pathlib import Path

import detserve

CHECKOUT = Path(__file__).parents[1]


def main() -> None:
    """Serve a committed detector, track through the clip, print first and last second of each object."""
    committed = detserve.Detector("codes_yolo", CHECKOUT / "model_repository")
    seen: dict[int, tuple[str, float, float]] = {}
    with detserve.serve(committed) as client:
        for frame in client.video(sys.argv[1], track=True):
            for found in frame.detections:
                if found.track_id is not None:
                    _, first_s, _ = seen.get(found.track_id, (found.label, frame.time_s, frame.time_s))
                    seen[found.track_id] = (found.label, first_s, frame.time_s)
    for track_id, (label, first_s, last_s) in sorted(seen.items()):
        print(f"{track_id:3} {label:12} {first_s:6.2f} to {last_s:6.2f} s")


if __name__ == "__main__":
    main()
