"""The tables of a plan, one module a concern; `wbc_common.study` joins them and is where to import them from."""
