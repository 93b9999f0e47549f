"""What a clinic keeps on its own disk from message to message."""
