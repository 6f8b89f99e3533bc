"""What people run around the pipeline."""
