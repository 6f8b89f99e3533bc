"""The steps of the jobs in .github/workflows: `python -m tools.ci`."""
