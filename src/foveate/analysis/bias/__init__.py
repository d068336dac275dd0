"""Tables, figures and the report of bias measurements."""
