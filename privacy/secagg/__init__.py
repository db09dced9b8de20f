"""Secure aggregation: the server opens the sum of a cohort, and no single update."""
