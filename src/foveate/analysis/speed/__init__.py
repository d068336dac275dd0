"""Tables, figures and the report of speed measurements."""
