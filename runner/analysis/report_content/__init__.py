"""Content of HTML reports that needs a trained model and images."""
