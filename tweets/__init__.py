"""What the pipeline's stages and the service both know about tweets."""
