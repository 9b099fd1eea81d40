"""Submissions to benchmark servers: validation without ground truth, and packing."""
