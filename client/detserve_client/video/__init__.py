"""Videos: files, cameras and streams as frames; tracks; windows and files with detections drawn in."""
