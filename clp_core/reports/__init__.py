"""Results as they lie beside models and as programs read them, back from any version."""
