"""One self-contained HTML file about finished runs."""
