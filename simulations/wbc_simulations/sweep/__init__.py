"""Many runs: planned, run in workers, gone on with, shown."""
