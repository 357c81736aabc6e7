"""What comes back: detections, what became of each picture, the files of a run."""
