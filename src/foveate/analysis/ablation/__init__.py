"""Tables, figures and the report of layer and budget ablations."""
