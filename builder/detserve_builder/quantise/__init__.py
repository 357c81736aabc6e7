"""8 bits and 16: calibration, ranges, Q/DQ nodes, casts."""
