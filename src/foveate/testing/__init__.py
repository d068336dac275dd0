"""Contract tests for plug-ins, and tiny models to run them on."""
