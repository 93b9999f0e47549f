"""The engines of a simulation: in this process, or on Ray."""
