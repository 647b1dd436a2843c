"""From a Plan to the artifact: the readable program, the weights, the archive."""
