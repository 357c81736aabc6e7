"""The same codes found by an SSD (torchvision's), on the feature maps of codes_yolo."""
