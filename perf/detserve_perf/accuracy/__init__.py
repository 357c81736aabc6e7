"""How good are its detections? Scored against annotations, compared with another detector's."""
