"""Plain HTTP in front of a server: pictures in by POST, detections out as JSON or drawn in."""
