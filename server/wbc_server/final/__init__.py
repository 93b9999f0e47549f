"""What follows the last round: calibration, the final measurement, the figures and the exported model."""
