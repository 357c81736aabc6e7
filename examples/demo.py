"""Three architectures, one client call: what ``detserve demo`` shows, for each detector that is committed.

Run by ``make demo``; writes annotated pictures and detections.json into out/demo/.
"""

from __future__ import annotations

from pathlib import Path

from detserve.demo import demo

CHECKOUT = Path(__file__).parents[1]

if __name__ == "__main__":
    demo(model=["codes_rcnn", "codes_ssd", "codes_yolo"], output=CHECKOUT / "out/demo")
