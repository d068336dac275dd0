"""Contract tests for plug-ins, and tiny models to try them on."""
