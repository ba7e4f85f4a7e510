"""Speed, measured beside other libraries."""
