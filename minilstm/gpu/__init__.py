"""Everything that only a GPU needs. Skip this folder at first."""
