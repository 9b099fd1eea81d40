"""What the benchmarks' servers are sent: checked by the rules that need no ground truth, packed as each wants it."""
