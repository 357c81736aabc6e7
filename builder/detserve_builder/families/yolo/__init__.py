"""The YOLOs: YOLOv3, YOLOv5 and v7, YOLOv8 to YOLO26, YOLOX, and those that need no suppression."""
