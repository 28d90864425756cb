"""Claims of the tuning guide and of papers, measured: each an experiment file with a `claim:` block."""
