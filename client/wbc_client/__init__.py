"""What runs in a clinic: data, training, evaluation, and the one door out."""
