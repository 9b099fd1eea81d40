"""Conversion of published annotations (JSON) to folders of frames and masks, with strict validation."""
