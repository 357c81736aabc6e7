"""The same codes found by a Faster R-CNN (torchvision's), on the feature maps of codes_yolo."""
