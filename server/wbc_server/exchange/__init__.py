"""Asking clinics and taking their replies: who takes part, who is late, who is away."""
