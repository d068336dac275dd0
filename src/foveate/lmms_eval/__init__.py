"""The adapter to lmms-eval, `--model foveate`; its modules need lmms-eval."""
