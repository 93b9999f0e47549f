"""The tables of a study's plan, one module a concern; `wbc_common.study` puts them together and is where to import from."""
