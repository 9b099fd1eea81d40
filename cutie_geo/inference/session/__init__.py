"""Sessions of an annotator: prompts, corrections and propagation, stored on disk."""
