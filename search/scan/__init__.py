"""Comparing a query with every logit: scorings, kernels, the scan, and the exact nearest."""
