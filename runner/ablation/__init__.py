"""Ablation tables: named rows x seeds, run concurrently, averaged, and compared seed by seed."""
