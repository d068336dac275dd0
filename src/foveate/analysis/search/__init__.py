"""Tables, figures and the report of searches."""
