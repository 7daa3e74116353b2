"""The Django application of the suites of consumers."""
