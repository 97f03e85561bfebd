"""Tables of runs: named rows x seeds, run side by side, averaged and compared seed by seed."""
