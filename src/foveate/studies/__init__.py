"""Ablations and searches as Optuna studies."""
