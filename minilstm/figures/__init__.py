"""All drawing of figures: style, curves, strips and films of frames, panels, tables as pictures."""
