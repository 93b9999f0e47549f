"""Clinic splits: which clinic has which cells, and with what labels, drawn from a seed (`[data.skew]`).

An experiment's sources (in-silico clinics, or the clinics of a manifest) stay as they are (`deal = "source"`), or are
pooled and dealt among virtual clinics by whole patients or by single cells. Then each clinic can lose classes, be
long-tailed, shrink, or label its training cells wrongly or coarsely. The kinds combine, in that order.

* `settings`  what `[data.skew]` may say, and what it may not.
* `table`     cells without their pixels: everything here is decided before an image is rendered or decoded.
* `dealing`   sizes, Dirichlet label skew; whole patients or single cells to clinics.
* `thinning`  long tail, missing classes, a share of the cells.
* `faults`    noisy and coarse labels, of training cells alone: validation, test and held-out cells keep their own.
* `deriving`  all of it in order.

Looked at and left out: flwr-datasets has Dirichlet, size and pathological partitioners, but brings `datasets` and
pyarrow, deals single rows only (a patient would straddle clinics) and knows neither coarse labels nor label noise.
"""
