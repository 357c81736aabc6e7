#!/usr/bin/env bash
# supervision's dataset readers give other boxes than the annotations, where average precision would then be off.
#
# Expected  A Pascal VOC box of the pixels 11 to 40 is 30 wide, for VOC counts from 1 and includes the last; an object
#           marked difficult is told from others. A YOLO box at 50 widths of the picture is refused, as is a COCO file
#           that is no COCO, with the file's name.
# Happens   The VOC box is 29 wide, and <difficult> is gone. The YOLO box is taken. A COCO entry without width, which
#           COCO's own tools read, ends in KeyError: 'width'.
# Seen      supervision 0.30.9, Python 3.11, 2026-11-30.
# Exit      0 while it is so, 1 when it has changed.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet numpy==1.26.4 opencv-python==4.11.0.86 supervision==0.30.9

"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

import supervision as sv
from PIL import Image

folder = Path(sys.argv[1]) / "set"
for name in ("images", "labels", "Annotations"):
    (folder / name).mkdir(parents=True)
Image.new("RGB", (100, 80)).save(folder / "images/a.jpg")
images = str(folder / "images")

edges = "<xmin>11</xmin><ymin>21</ymin><xmax>40</xmax><ymax>60</ymax>"
entry = f"<object><name>dog</name><difficult>1</difficult><bndbox>{edges}</bndbox></object>"
(folder / "Annotations/a.xml").write_text(f"<annotation>{entry}</annotation>")
voc = sv.DetectionDataset.from_pascal_voc(images, str(folder / "Annotations"))
(found,) = voc.annotations.values()
width = float(found.xyxy[0, 2] - found.xyxy[0, 0])
print("Pascal VOC:", found.xyxy.tolist(), "data:", sorted(found.data))

(folder / "labels/a.txt").write_text("0 50 50 10 10\n")
(folder / "data.yaml").write_text("names: [dog]\n")
yolo = sv.DetectionDataset.from_yolo(images, str(folder / "labels"), str(folder / "data.yaml"))
(far,) = yolo.annotations.values()
print("YOLO:", far.xyxy.tolist())

coco = {
    "images": [{"id": 1, "file_name": "a.jpg"}],
    "categories": [{"id": 1, "name": "dog"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4]}],
}
(folder / "coco.json").write_text(json.dumps(coco))
try:
    sv.DetectionDataset.from_coco(images, str(folder / "coco.json"))
    refused = None
except Exception as error:
    refused = repr(error)
print("COCO without width:", refused)

as_seen = width == 29 and "difficult" not in found.data and far.xyxy.max() > 1000 and refused == "KeyError('width')"
sys.exit(0 if as_seen else 1)
PYTHON
