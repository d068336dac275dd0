"""Tables, figures and the report of method comparisons."""
