"""Tables and figures of the slides: many runs, verdicts, significance."""
