"""Sweeps: Ray Tune and Optuna over configuration paths; `runner/commands/sweep.py` is the door."""
