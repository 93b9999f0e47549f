"""Studies in silico, on top of the same ServerApp and ClientApp that hospitals run."""
