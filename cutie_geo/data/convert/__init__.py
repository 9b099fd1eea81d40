"""Published annotations (JSON) into folders of frames and masks; nothing in a file is believed before it is checked."""
