"""Images to verify, calibrate and measure with."""
