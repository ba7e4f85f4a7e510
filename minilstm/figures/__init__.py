"""All drawing: frames, films, panels."""
