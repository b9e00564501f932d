"""The tests: the same tree and names as the source, plus tidy, docs, contracts and end_to_end."""
