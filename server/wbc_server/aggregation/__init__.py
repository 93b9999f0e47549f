"""Class-count-aware FedAvg: weights, sums, robust means and the server's step (docs/method.md §2)."""
