"""Results as JSON beside models, typed, and read back from any version."""
