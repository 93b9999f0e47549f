"""What a study would train and test on, shown before anything runs."""
