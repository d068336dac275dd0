"""The adapter to lmms-eval, `--model foveate`; without lmms-eval nothing here can be imported."""
