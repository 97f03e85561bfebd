"""Hyperparameter sweeps over configuration paths with Ray Tune and Optuna."""
