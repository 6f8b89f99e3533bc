"""The repository as Git and DVC see it, for tools/ and runner/: commits, what dvc.yaml declares, experiments."""
