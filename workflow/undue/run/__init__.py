"""What a workflow run needs around the science: configuration, code fingerprints, jobs."""
